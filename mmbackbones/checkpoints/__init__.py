"""Checkpoints: reading, fitting, writing and resuming them.

A file takes this way into a model::

    sources.py   address -> file on this machine
    read.py      file -> plain data; nothing in it is run
    load.py      both of these, and the same for the frameworks' own loaders
    layout.py    plain data -> state dict in the model's names; ``adapters`` holds the renaming of each family
    strict.py    state dict -> model; what does not fit is listed

``atomic.py``, ``plain_data.py`` and ``random_state.py`` serve the writing of a training's checkpoints, ``resume.py``
taking the training up again, ``trust.py`` files that hold code.
"""
