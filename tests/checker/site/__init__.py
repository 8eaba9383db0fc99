"""The site that visitors of the checker go to: a Django project of its own."""
