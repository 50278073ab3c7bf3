"""From media files to rows: a picture and a patch of sound per second, exactly timed, decoded where nothing can hang.

`sandbox.MediaReader` is the door for jobs: it decodes in a child process with a deadline and a memory limit.
`rows.open_rows` does the same work in the calling process. Neither Beam nor a deep learning framework is imported.
"""
