"""Every option of a run, declared once: settings, flags, command line."""
