"""The image that containers of Snowflake run: what is in it, how it is built, checked and pushed.

`packages` says which packages, `recipe` writes the Containerfile, `engines` speaks with docker,
podman and buildah, `build` and `validate` do what their names say, `push` takes an image to a
repository of the account. The user's own code is in none of it: it travels in the run.
"""
