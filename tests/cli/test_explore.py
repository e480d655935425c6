"""`topoprior explore`: the numbers of its page against the prior, and the page itself in a real browser."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import topoprior as tp
from topoprior.cli import main
from topoprior.cli.explore import MOST, describe_network, describe_prior, make_page


def _decode(described: dict, z: torch.Tensor) -> torch.Tensor:
    """The formula that the page computes, from the numbers that it is given."""
    found = torch.zeros(len(z), described["size"] ** 2, dtype=z.dtype)
    for frequency, cosine, sine in described["waves"]:
        turns = 2 * math.pi * z @ torch.tensor(frequency, dtype=z.dtype)
        found += turns.cos()[:, None] * torch.tensor(cosine) + turns.sin()[:, None] * torch.tensor(sine)
    return found


@pytest.mark.parametrize("name", ["klein-3x3", "klein-5x5", "klein-natural-3x3", "torus-3x3", "circle-3x3"])
def test_the_waves_are_the_decoder(name):
    prior = tp.get_prior(name)
    z = 3 * torch.randn(300, prior.covering.dim, dtype=torch.float64)
    assert torch.allclose(
        _decode(describe_prior(name, prior), z), prior.decode(z).flatten(1).double(), atol=1e-5
    )


def test_the_page_asks_nobody_and_is_small():
    page = make_page("klein-3x3", tp.get_prior("klein-3x3"))
    assert len(page) < 100_000 < MOST
    assert not re.search(rb"https?://|src=|@import|fetch\(|XMLHttpRequest", page)


def test_names_of_a_stranger_do_not_end_the_script():
    network = {"name": "</script><b>", "posterior": False, "layers": []}
    page = make_page("klein-3x3", tp.get_prior("klein-3x3"), network).decode()
    assert page.count("</script>") == 2
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page)[1])
    assert data["network"]["name"] == "</script><b>"


def test_a_bayesian_network_has_its_own_points(tmp_path):
    net = torch.nn.Sequential(tp.BayesConv2d(2, 5, 3), tp.BayesConv2d(5, 3, 3), tp.BayesLinear(4, 2))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = describe_network(str(tmp_path / "net.safetensors"), tp.get_prior("klein-3x3"))
    assert found["posterior"]
    assert [layer["count"] for layer in found["layers"]] == [10, 15]
    posterior = net[0].weight_posterior
    lifts = posterior.loc[:2].flatten(1).T.detach().double()
    points = torch.tensor(found["layers"][0]["points"], dtype=torch.float64)
    assert tp.KleinBottle().same_point(points[:, :2], lifts, atol=1e-4).all()
    assert torch.allclose(
        points[:, 2:], posterior.log_scale[:2].flatten(1).T.detach().double().exp(), rtol=1e-4
    )


def test_a_plain_network_is_projected(tmp_path):
    torch.manual_seed(0)
    prior = tp.get_prior("klein-3x3")
    z = tp.UniformOn(tp.KleinBottle()).sample((12, 10))
    save_file({"conv.weight": prior.decode(z) * 0.3}, tmp_path / "net.safetensors")
    (layer,) = describe_network(str(tmp_path / "net.safetensors"), prior)["layers"]
    assert layer["residual"] < 0.1  # decoded kernels less their energy in the posterior's own width
    points = torch.tensor(layer["points"])
    again = prior.decode(points).flatten(1)
    cosine = torch.nn.functional.cosine_similarity(again, prior.decode(z).flatten(0, 1).flatten(1)).abs()
    assert (cosine > 0.99).all(), "the same kernel up to its sign"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["euclidean-3x3"], "circle, a torus or a Klein bottle"),
        (["gaussian"], "circle, a torus or a Klein bottle"),
        (["missing.safetensors"], "no file"),
        (["no-such-prior"], "neither a known name"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, capsys):
    assert main(["explore", *arguments, "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


# --- in a browser ------------------------------------------------------------------------------------

# Debian's name, and those of machines that test for others.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("chromedriver") is None, reason="needs chromium and its driver"
)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1250,1700", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """The page, opened at a known point; nothing may have been written to the console at the end."""
    net = torch.nn.Sequential(tp.BayesConv2d(2, 20, 3), tp.BayesConv2d(20, 10, 3))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    path = tmp_path / "page.html"
    assert main(["explore", str(tmp_path / "net.safetensors"), "--output", str(path)]) == 0
    browser.get("about:blank")
    browser.get(f"{path.as_uri()}#prior=klein-3x3&u=0.3&v=0.2&su=0.2&sv=0.2&theme=light")
    yield browser
    assert browser.get_log("browser") == []


def _state(browser) -> dict:
    found = browser.execute_script("return {...document.body.dataset}")
    return {
        "u": float(found["u"]),
        "v": float(found["v"]),
        "flips": int(found["flips"]),
        "kernel": np.array(found["kernel"].split(), dtype=float),
    }


def _text(browser, identifier: str) -> str:
    return browser.find_element("id", identifier).text


@needs_browser
def test_the_page_decodes_as_the_package_does_and_knows_the_kl(page):
    state = _state(page)
    kernel = tp.get_prior("klein-3x3").decode(torch.tensor([[0.3, 0.2]])).flatten()
    np.testing.assert_allclose(state["kernel"], kernel.numpy(), atol=1e-5)
    K = tp.KleinBottle()
    q = tp.WrappedNormal(K, torch.tensor([0.3, 0.2]), torch.tensor([0.2, 0.2]))
    exact = torch.distributions.kl_divergence(q, tp.UniformOn(K)).item()
    assert abs(float(_text(page, "kl")) - exact) < 2e-3
    assert abs(float(_text(page, "bound")) - tp.cover_kl(q, tp.UniformOn(K)).item()) < 2e-3


@needs_browser
def test_a_drag_over_the_seam_does_not_jump_and_comes_back_mirrored(page):
    from selenium.webdriver import ActionChains

    canvas = page.find_element("id", "map")
    width, height = canvas.size["width"], canvas.size["height"]
    drag = ActionChains(page, duration=0).move_to_element_with_offset(
        canvas, round(0.3 * width), round(-0.2 * height)
    )
    drag.click_and_hold().perform()
    before = _state(page)
    assert before["flips"] == 0
    assert abs(before["u"] - 0.8) < 0.01
    assert abs(before["v"] - 0.2) < 0.01
    largest = 0.0
    kernels = [before["kernel"]]
    for _ in range(40):  # off the right edge of the canvas
        ActionChains(page, duration=0).move_by_offset(round(0.01 * width), 0).perform()
        kernels.append(_state(page)["kernel"])
        largest = max(largest, float(np.abs(kernels[-1] - kernels[-2]).max()))
    after = _state(page)
    ActionChains(page, duration=0).release().perform()
    assert after["flips"] == 1
    assert after["u"] < 0.5
    assert abs(after["v"] + before["v"]) < 1e-9, "glued with a flip"
    moved = float(np.abs(kernels[-1] - kernels[0]).max())
    assert largest < 0.1 * max(moved, 0.5), "no step is larger than those before it"
    assert "mirrored" in _text(page, "where")


@needs_browser
def test_keys_walk_round_the_bottle(page):
    from selenium.webdriver import Keys

    canvas = page.find_element("id", "map")
    start = _state(page)
    canvas.send_keys(Keys.SHIFT, Keys.ARROW_RIGHT * 10)
    once = _state(page)
    assert once["flips"] == 1
    assert abs(once["u"] - start["u"]) < 1e-9
    assert abs(once["v"] + start["v"]) < 1e-9, "once round: mirrored"
    canvas.send_keys(Keys.SHIFT, Keys.ARROW_RIGHT * 10)
    twice = _state(page)
    assert twice["flips"] == 2
    np.testing.assert_allclose(twice["kernel"], start["kernel"], atol=1e-9)
    canvas.send_keys(Keys.NULL, Keys.ARROW_UP)
    assert abs(_state(page)["v"] - 0.22) < 1e-9


@needs_browser
def test_a_pasted_kernel_is_found(page):
    z = torch.tensor([[0.77, -0.31]])
    kernel = (2.5 * tp.get_prior("klein-3x3").decode(z) + 0.1).flatten().tolist()
    page.find_element("id", "paste").send_keys(" ".join(f"{x:.5f}" for x in kernel))
    page.find_element("id", "find").click()
    found = re.search(r"u = (\S+), v = (\S+), alpha = (\S+); (\S+) %", _text(page, "found"))
    u, v, alpha, residual = (float(x.rstrip(",")) for x in found.groups())
    again = alpha * tp.get_prior("klein-3x3").decode(torch.tensor([[u, v]]))
    assert torch.allclose(
        again - again.mean(), torch.tensor(kernel).reshape(1, 3, 3) - np.mean(kernel), atol=5e-3
    )
    assert residual < 0.5


@needs_browser
def test_priors_layers_theme_tour_and_link(page):
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    assert "300 kernels" not in _text(page, "netnote")
    Select(page.find_element("id", "layer")).select_by_visible_text("1")
    assert "200 of 200 kernels" in _text(page, "netnote")
    assert "Median std" in _text(page, "netnote")
    WebDriverWait(page, 120).until(lambda p: "layer=1" in p.current_url)
    for name in ("torus-3x3", "circle-3x3", "klein-natural-3x3"):
        Select(page.find_element("id", "prior")).select_by_visible_text(name)
        assert name in _text(page, "code")
        dim = 1 if "circle" in name else 2
        prior = tp.get_prior(name)
        expected = prior.decode(torch.tensor([[0.3, 0.2][:dim]])).flatten()
        np.testing.assert_allclose(_state(page)["kernel"], expected.numpy(), atol=1e-5)
    page.find_element("id", "theme").click()
    assert page.execute_script("return document.documentElement.classList.contains('dark')")
    page.find_element("id", "next").click()
    assert "1 of 3" in _text(page, "step"), "what is shown is what is said"
    WebDriverWait(page, 120).until(
        lambda p: "v=0.5000" in p.current_url, "the first step of the tour ends there"
    )
    page.find_element("id", "next").click()
    assert "2 of 3" in _text(page, "step")
    page.find_element("id", "map").send_keys(Keys.HOME)  # a hand on the map ends the tour
    assert _state(page)["u"] == 0.3
    WebDriverWait(page, 120).until(lambda p: "u=0.3000" in p.current_url)
    assert "theme=dark" in page.current_url
    link, kernel = page.current_url, _state(page)["kernel"]
    page.get("about:blank")
    page.get(link)
    np.testing.assert_allclose(_state(page)["kernel"], kernel, atol=1e-3)
    assert "200 of 200 kernels" in page.execute_script(
        "return document.getElementById('netnote').textContent"
    )


@needs_browser
def test_pictures_of_yours_are_filtered(page, tmp_path):
    from PIL import Image
    from selenium.webdriver.support.ui import WebDriverWait

    def filtered() -> str:
        return page.execute_script("return document.getElementById('filtered').toDataURL()")

    seen = [filtered()]
    for name, colour in (("one.png", (200, 40, 40)), ("two.png", (10, 200, 90))):
        picture = Image.new("RGB", (64, 40))
        picture.paste(colour, (20, 10, 40, 30))
        picture.save(tmp_path / name)
        page.find_element("id", "file").send_keys(str(tmp_path / name))
        WebDriverWait(page, 120).until(lambda _: filtered() not in seen)
        seen.append(filtered())
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.find_element("id", "file").send_keys(str(tmp_path / "no.png"))
    WebDriverWait(page, 120).until(lambda p: "no picture" in _text(p, "where"))
    assert filtered() == seen[-1]


@needs_browser
def test_in_a_frame_the_page_says_how_high_it_is(browser, tmp_path):
    """The site's page makes the frame as high as that, so that nothing is cut off."""
    from selenium.webdriver.support.ui import WebDriverWait

    (tmp_path / "page.html").write_bytes(make_page("klein-3x3", tp.get_prior("klein-3x3")))
    outer = "<script>onmessage = (m) => { document.title = m.data.height; };</script>"
    outer += '<iframe src="page.html#theme=dark" style="width: 900px; height: 300px"></iframe>'
    (tmp_path / "outer.html").write_text(outer)
    browser.get((tmp_path / "outer.html").as_uri())
    WebDriverWait(browser, 120).until(lambda outside: outside.title.isdigit())
    said = int(browser.title)
    browser.switch_to.frame(0)
    assert said > 300
    assert abs(browser.execute_script("return document.body.offsetHeight") - said) <= 2
    assert browser.execute_script("return document.documentElement.classList.contains('dark')")
    browser.switch_to.default_content()
