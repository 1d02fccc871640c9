"""The files of stages, over HTTP and as mounted directories."""
