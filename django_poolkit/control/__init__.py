"""See and steer the pools of a running process, from another shell: one UNIX socket a process."""
