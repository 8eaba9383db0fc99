"""Health: is this process alive, is it ready, and can it reach what it needs?"""
