"""The page of tools/demo.py --web in a real browser."""

import io
import socket
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from mmbackbones.demo import web
from mmbackbones.errors import InputError
from tests.browser import DESK, open_page

PATIENCE = 60  # s


@pytest.fixture(scope='module')
def address(models):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    blocks = web.serve(list(models.values()), '127.0.0.1', port, wait=False)
    with pytest.raises(InputError, match=f'--port {port}: cannot be used'):
        web.serve(list(models.values()), '127.0.0.1', port, wait=False)
    yield f'http://127.0.0.1:{port}'
    blocks.close()


def until(chrome: webdriver.Chrome, what):
    return WebDriverWait(chrome, PATIENCE, ignored_exceptions=[IndexError]).until(lambda _: what())


def upload(chrome: webdriver.Chrome, file: Path) -> None:
    until(chrome, lambda: chrome.find_elements(By.CSS_SELECTOR, '#image input[type=file]'))[0].send_keys(str(file))


def status(chrome: webdriver.Chrome) -> str:
    return chrome.find_elements(By.CSS_SELECTOR, '#status [role=status]')[0].text


def picture(chrome: webdriver.Chrome, name: str):
    """Element and pixels of a picture, when it is there."""

    def loaded():
        image = chrome.find_elements(By.CSS_SELECTOR, f'#{name} img')[0]
        done = chrome.execute_script('return arguments[0].complete && arguments[0].naturalWidth > 0', image)
        return done and image

    element = until(chrome, loaded)
    data = chrome.execute_async_script(
        'const done = arguments[1]; fetch(arguments[0].src).then(r => r.arrayBuffer())'
        '.then(b => done([...new Uint8Array(b)]))',
        element,
    )
    return element, Image.open(io.BytesIO(bytes(data))).convert('RGB')


@pytest.mark.slow
def test_page(address, photos, tmp_path):
    photo = sorted(photos.iterdir())[0]
    size = Image.open(photo).size
    with open_page(address, DESK) as chrome:
        upload(chrome, photo)
        until(chrome, lambda: f'{photo.name}, {size[0]}x{size[1]} px' in status(chrome))
        for number in (0, 1):
            _, painted = picture(chrome, f'painted-{number}')
            assert painted.size == size and painted.tobytes() != Image.open(photo).convert('RGB').tobytes()
        text = chrome.find_element(By.TAG_NAME, 'body').text
        assert 'detections of score 0 or more' in text and 'background' in text

        # A click into the middle of the left result chooses the point, and both networks answer.
        element, _ = picture(chrome, 'painted-0')
        element.click()
        until(chrome, lambda: 'The token at x=' in status(chrome))
        point = [int(chrome.find_element(By.CSS_SELECTOR, f'#{name} input').get_attribute('value')) for name in 'xy']
        assert all(abs(value - side / 2) <= 2 for value, side in zip(point, size))
        fields = [picture(chrome, f'field-{number}')[1] for number in (0, 1)]
        assert fields[0].size[0] > 400 and fields[0].tobytes() != fields[1].tobytes()

        box = chrome.find_element(By.CSS_SELECTOR, '#x input')
        box.send_keys(Keys.CONTROL, 'a')
        box.send_keys('5000', Keys.TAB)
        chrome.find_element(By.ID, 'look').click()
        until(chrome, lambda: f'x=5000, y={point[1]}: outside the image of {size[0]}x{size[1]} px' in status(chrome))

        chrome.refresh()
        broken = tmp_path / 'holiday <b>.jpg'
        broken.write_bytes(photo.read_bytes()[:2000])
        upload(chrome, broken)
        until(chrome, lambda: 'truncated: the end marker of a JPEG file is missing' in status(chrome))
        assert str(tmp_path) not in status(chrome) and not chrome.find_elements(By.CSS_SELECTOR, '#painted-0 img')
        hosts = chrome.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)"
            '.filter(name => !/^(data:|blob:)/.test(name)).map(name => new URL(name).origin)'
        )
        assert set(hosts) == {address}


def test_without_gradio_the_install_command_is_told(monkeypatch):
    monkeypatch.setattr(web, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mmbackbones\[demo\]'"):
        web.require_gradio()


def test_sentences_in_place_of_pictures(models):
    both = list(models.values())
    assert web._look(both, None, 1, 1) == ('Drop an image first.', [None, None])
    assert web._show(both, None) == ('', [(None, '')] * 2)
    assert web._look(both, 'x.png', None, 1)[0].startswith('Set x and y')
    sentence, nothing = web._show(both, '/nowhere/x.png')
    assert sentence == 'x.png: no such file' and nothing == [(None, '')] * 2
