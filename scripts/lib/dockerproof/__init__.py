"""Does a Dockerfile's steps in a bare Debian root, without a Docker engine.

``dockerfile`` reads the file, ``context`` copies, ``root`` makes and enters file systems, ``build``
does the steps, and ``__main__`` runs what was built.
"""
