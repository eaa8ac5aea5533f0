"""Where pictures come from: what is written into a picture, and reading it again."""
