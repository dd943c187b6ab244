"""What a trained detector or segmentor makes of images and videos, as files and as a page.

``options.py`` and ``cli.py`` are the command line. ``model.py`` loads a model, ``inputs.py`` finds
and reads what it is shown, ``files.py`` writes what it finds. ``look.py`` measures
where a token of the backbone looks. ``web.py`` is the page.
"""
