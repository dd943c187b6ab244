"""A real browser over a page: what someone who reads, tabs or turns the phone would meet."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PHONE = (360, 740)  # px
DESK = (1280, 900)


@contextmanager
def open_page(page: Path | str, size: tuple[int, int]) -> Iterator[webdriver.Chrome]:
    """Open a file, or an address of this machine, in headless Chromium.

    Skipped without one, unless ``MMBACKBONES_REQUIRE_BROWSER`` is set. The browser reaches no other machine.
    """
    browser, driver = (shutil.which(name) for name in ('chromium', 'chromedriver'))
    if not (browser and driver):
        reason = "Chromium and its driver are not installed (Debian's packages chromium and chromium-driver)"
        if os.environ.get('MMBACKBONES_REQUIRE_BROWSER'):
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'):
        options.add_argument(argument)
    options.add_argument('--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        # A window cannot be made as narrow as a phone.
        chrome.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride',
            dict(width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == PHONE),
        )
        # A page that is on its own asks nobody for anything.
        chrome.execute_cdp_cmd('Network.enable', {})
        if isinstance(page, Path):
            chrome.execute_cdp_cmd(
                'Network.emulateNetworkConditions',
                dict(offline=True, latency=0, downloadThroughput=0, uploadThroughput=0),
            )
        chrome.get(page.absolute().as_uri() if isinstance(page, Path) else page)
        yield chrome
    finally:
        chrome.quit()


def faults_of(page: Path) -> list[str]:
    """Everything about a page that someone could stumble over, one sentence each."""
    faults = []
    with open_page(page, DESK) as chrome:
        faults += [f'console: {entry["message"]}' for entry in chrome.get_log('browser')]
        faults += _image_faults(chrome) + _heading_faults(chrome) + _keyboard_faults(chrome)
        faults += [
            f'asks the network for {address}'
            for address in chrome.execute_script(
                "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
            )
        ]
        faults += [
            f'columns are cut off at {DESK[0]} px: {label}'
            for label in chrome.execute_script(
                "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
                ".map(e => e.getAttribute('aria-label'))"
            )
        ]
    with open_page(page, PHONE) as chrome:
        width = chrome.execute_script('return document.documentElement.scrollWidth')
        if width > PHONE[0]:
            faults.append(f'{width} px wide on a phone of {PHONE[0]} px')
        small = chrome.execute_script(
            "return [...document.querySelectorAll('p, td, th, a, figcaption, caption')]"
            '.filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.textContent)'
        )
        faults += [f'text below 12 px: {text}' for text in small]
    return faults


def _image_faults(chrome: webdriver.Chrome) -> list[str]:
    faults = []
    for image in chrome.find_elements(By.TAG_NAME, 'img'):
        alt = image.get_attribute('alt')
        loaded = chrome.execute_script('return arguments[0].complete && arguments[0].naturalWidth > 0', image)
        if not loaded:
            faults.append(f'image does not load: {alt}')
        if not alt or len(alt) < 10:
            faults.append(f'image without a telling alternative text: {alt!r}')
    return faults


def _heading_faults(chrome: webdriver.Chrome) -> list[str]:
    levels = [int(heading.tag_name[1]) for heading in chrome.find_elements(By.CSS_SELECTOR, 'h1, h2, h3, h4, h5, h6')]
    faults = [] if levels[:1] == [1] and levels.count(1) == 1 else [f'expected one h1, first of all: {levels}']
    return faults + [
        f'h{after} follows h{before}' for before, after in itertools.pairwise(levels) if after > before + 1
    ]


def _keyboard_faults(chrome: webdriver.Chrome) -> list[str]:
    """Tab through the page: every link and every region that scrolls takes the focus, visibly, in reading order."""
    wanted = chrome.execute_script(
        'return [...document.querySelectorAll(\'a[href], button, input, summary, [tabindex="0"]\')]'
        '.map((e, i) => (e.dataset.order = i))'
    )
    reached, hidden = [], []
    body = chrome.find_element(By.TAG_NAME, 'body')
    for _ in wanted:
        body.send_keys(Keys.TAB)
        order, outline = chrome.execute_script(
            'const e = document.activeElement; return [e.dataset.order, getComputedStyle(e).outlineStyle]'
        )
        reached.append(None if order is None else int(order))
        hidden += [order] * (outline == 'none')
    faults = [] if reached == wanted else [f'tabbing reaches {reached} of {wanted}']
    overflowing = chrome.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 &&"
        " ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).map(e => e.outerHTML)"
    )
    faults += [f'scrolls, but not by keyboard: {html[:80]}' for html in overflowing]
    return faults + [f'focus is not visible on element {order}' for order in hidden]
