"""Labels while a video plays: a stream's last frames, their windows through an exported model, and the life of labels.

Nothing here knows of HTTP: `vcls_model.serving.http` and the commands are built on it.
"""
