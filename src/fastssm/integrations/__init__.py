"""Drop-in replacements for losses of other packages. Each package is imported on first use."""
