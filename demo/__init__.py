"""The demo: everything a user has before a merge, made from images that come with pip packages."""
