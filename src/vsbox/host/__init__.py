"""What this machine is. The only package that looks."""
