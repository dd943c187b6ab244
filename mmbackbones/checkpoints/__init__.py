"""Read, fit, write and resume checkpoints.

A file is loaded into a model in these steps::

    sources.py   address -> file on this machine
    read.py      file -> plain data; no code in it is executed
    load.py      both of these, and the same for the frameworks' own loaders
    layout.py    plain data -> state dict in the model's names; ``adapters`` holds the renaming of each family
    strict.py    state dict -> model; keys that do not fit are listed

``atomic.py``, ``plain_data.py`` and ``random_state.py`` write the checkpoints of a training. ``resume.py`` resumes a
training. ``trust.py`` handles files that contain code.
"""
