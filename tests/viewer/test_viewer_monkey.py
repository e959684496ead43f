"""600 random keys and clicks, over reports of all kinds: no error of the page, no dialog, no request.

`make torture` does more of them.
"""

import random

import pytest

ACTS = 100  # on each report
KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Enter", "Shift+Enter", "Escape", "Tab", " ", "q", "m", "v")


@pytest.mark.parametrize("name", ["asked", "fine", "heads", "deep", "tower", "routes"])
def test_random_keys_and_clicks(opened, reports, name):
    """What the page must not do fails the test at its end: `opened` looks at it."""
    viewer = opened(reports / f"{name}_results.html")
    viewer.shows(name)
    chance = random.Random(name)
    for _ in range(ACTS):
        if chance.random() < 0.5:
            viewer.page.keyboard.press(chance.choice(KEYS))
        else:
            viewer.page.mouse.click(chance.randrange(0, 1270), chance.randrange(90, 790))
        if chance.random() < 0.1:
            viewer.page.mouse.wheel(0, chance.randrange(-400, 600))
    viewer.settle(3)
    assert viewer.page.locator("main").inner_text()


@pytest.mark.parametrize("name", ["asked", "tower"])
def test_a_layer_that_is_chosen_ends_playing(opened, reports, name):
    viewer = opened(reports / f"{name}_results.html")
    viewer.shows(name)
    button = viewer.page.get_by_role("button", name="Play layers").locator("visible=true").first
    button.click()
    viewer.page.get_by_role("button", name="Pause").first.wait_for()
    viewer.go(layer=1)
    viewer.go(layer=2)
    viewer.page.get_by_role("button", name="Play layers").locator("visible=true").first.wait_for()
