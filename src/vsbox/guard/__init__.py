"""The audit hook in every Python process of a box: it explains what the kernel denies, and is no boundary."""
