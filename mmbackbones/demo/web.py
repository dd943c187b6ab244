"""The page of ``tools/demo.py --web``: an image in, what one or two models find in it, and where their tokens look.

gradio makes the page. It is an extra, ``mmbackbones[demo]``. Nothing leaves this machine: its statistics are switched
off before it is imported, and the page uses the fonts of the browser.
"""

import html
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mmbackbones.analysis.receptive_field.draw import pixels
from mmbackbones.demo.files import describe
from mmbackbones.demo.inputs import read
from mmbackbones.demo.look import draw_look
from mmbackbones.demo.model import Model
from mmbackbones.engine.command import say
from mmbackbones.errors import InputError

TITLE = 'What a network finds, and where it looks'
ABOUT = """# What a network finds, and where it looks

Drop an image. Then click a point of a result: the pictures below it show which pixels the output of the token at that
point depends on, stage by stage of the backbone. The brightness is the logarithm of the gradient, over four decades.
"""
FIELD = 'The effective receptive field at the point, for this image: bright pixels change the output of the token most.'
SHOWN = 20  # lines of the list of what was found
LARGEST = '64mb'  # file that the page takes


def require_gradio() -> None:
    """Refuse to start without gradio.

    Raises:
        InputError: it is not installed.
    """
    if find_spec('gradio') is None:
        raise InputError("--web: gradio is not installed; install it with: pip install 'mmbackbones[demo]'")


def page(models: Sequence[Model]) -> Any:
    """The page as ``gradio.Blocks``.

    Args:
        models: one or two, side by side.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported and when a page starts
    import gradio as gr

    one_at_a_time: dict[str, Any] = dict(concurrency_limit=1, concurrency_id='models')
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(ABOUT)
        file = gr.File(label='Image', elem_id='image', height=140)
        status = gr.HTML(_sentence(''), elem_id='status')
        painted, lists, fields = [], [], []
        with gr.Row():
            for number, model in enumerate(models):
                with gr.Column(min_width=280):
                    gr.Markdown(f'{_code(model.name)}, weights {_code(Path(model.checkpoint).name)}')
                    painted.append(
                        gr.Image(
                            label='Result; click a point',
                            format='png',
                            interactive=False,
                            buttons=['download'],
                            elem_id=f'painted-{number}',
                            alt_text=f'The image with what {model.name} finds in it',
                        )
                    )
                    lists.append(gr.HTML())
        with gr.Row():
            x = gr.Number(label='x, px', value=0, precision=0, elem_id='x', min_width=100)
            y = gr.Number(label='y, px', value=0, precision=0, elem_id='y', min_width=100)
            look = gr.Button('Show where the token looks', elem_id='look')
        gr.Markdown(FIELD)
        for number, model in enumerate(models):
            gr.Markdown(f'Where the token of {_code(model.name)} looks:')
            fields.append(
                gr.Image(
                    show_label=False,
                    format='png',
                    interactive=False,
                    buttons=['download'],
                    elem_id=f'field-{number}',
                    alt_text=f'Effective receptive field of {model.name} at the point, one panel per stage',
                )
            )

        def show(path: str | None) -> list:
            sentence, results = _show(models, path)
            return [_sentence(sentence), *(r[0] for r in results), *(r[1] for r in results), *[None] * len(fields)]

        def look_at(path: str | None, at_x: float | None, at_y: float | None) -> list:
            sentence, figures = _look(models, path, at_x, at_y)
            return [_sentence(sentence), *figures]

        def clicked(event: gr.SelectData) -> tuple[int, int]:
            return int(event.index[0]), int(event.index[1])

        file.change(show, file, [status, *painted, *lists, *fields], **one_at_a_time)
        looked = dict(fn=look_at, inputs=[file, x, y], outputs=[status, *fields], **one_at_a_time)
        look.click(**looked)
        for image in painted:
            image.select(clicked, None, [x, y]).then(**looked)
    return blocks


def serve(models: Sequence[Model], host: str, port: int, wait: bool = True) -> Any:
    """Serve the page until Ctrl-C.

    Args:
        models: one or two.
        host: address to listen at; ``127.0.0.1`` lets in this machine alone.
        port: to listen at.
        wait: whether to return only when the page ends.

    Returns:
        gradio.Blocks: the running page, if not ``wait``.

    Raises:
        InputError: address or port cannot be used.
    """
    blocks = page(models)
    import gradio as gr

    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=LARGEST,
            theme=gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']),
        )
    except OSError as error:
        raise InputError(f'--host {host} --port {port}: cannot be used; is another page there?') from error
    if wait:
        say(f'the page is at http://{host}:{port}; Ctrl-C ends it')
        blocks.block_thread()
    return blocks


def _show(models: Sequence[Model], path: str | None) -> tuple[str, list[tuple[np.ndarray | None, str]]]:
    """A sentence, and the painted image and the list of every model."""
    nothing: list[tuple[np.ndarray | None, str]] = [(None, '')] * len(models)
    results: list[tuple[np.ndarray | None, str]] = []
    if path is None:
        return '', nothing
    started = time.monotonic()
    try:
        for model in models:
            image = read(path, model.reader)
            sample = model.predict(image, path)
            results.append((model.paint(image, sample)[..., ::-1].copy(), _list(model, describe(model, sample))))
    except InputError as error:
        return _to_user(error, path), nothing
    size = f'{image.shape[1]}x{image.shape[0]} px'
    return f'{Path(path).name}, {size}: {time.monotonic() - started:.1f} s on {models[0].device}.', results


def _look(
    models: Sequence[Model], path: str | None, x: float | None, y: float | None
) -> tuple[str, list[np.ndarray | None]]:
    """A sentence, and the figure of the receptive fields of every model."""
    nothing: list[np.ndarray | None] = [None] * len(models)
    figures: list[np.ndarray | None] = []
    if path is None:
        return 'Drop an image first.', nothing
    if x is None or y is None:
        return 'Set x and y, or click a point of a result.', nothing
    started = time.monotonic()
    try:
        for model in models:
            image = read(path, model.reader)
            figures.append(pixels(draw_look(model, image, (x, y))))
    except InputError as error:
        return _to_user(error, path), nothing
    return f'The token at x={x:g}, y={y:g}: {time.monotonic() - started:.1f} s on {models[0].device}.', figures


def _list(model: Model, found: dict[str, Any]) -> str:
    """What was found, as an HTML table."""
    if model.task == 'segmentation':
        head, rows = ('class', 'share'), [(name, f'{share:.1%}') for name, share in found['shares'].items()]
        total = f'{len(rows)} classes'
    else:
        head = ('class', 'score')
        rows = [(one['class'], f'{one["score"]:.2f}') for one in found['detections']]
        total = f'{len(rows)} detections of score {model.score_threshold:g} or more'
    more = f', the first {SHOWN}' if len(rows) > SHOWN else ''
    return f'<p>{total}{more}</p>' + _table(head, rows[:SHOWN])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells) + '</tr>'

    return '<table>' + line(head, 'th') + ''.join(line(row, 'td') for row in rows) + '</table>' if rows else ''


def _sentence(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _code(text: str) -> str:
    return '`' + text.replace('`', "'") + '`'


def _to_user(error: InputError, path: str) -> str:
    """A message without the folder in which the server keeps an upload."""
    return str(error).replace(path, Path(path).name)
