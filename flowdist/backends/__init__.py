"""Where jobs start. `base` is the seam; each other module or package is one backend."""
