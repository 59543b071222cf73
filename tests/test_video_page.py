"""The live page of vgg/video.py: patches, what requests get, and whom the server refuses."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import video_scripts
from helpers.extras import need
from helpers.video_scripts import LOOKS, picture

import lrp_tf
from lrp_tf.files.errors import LoadError

need("av", "flask", extra="video")
PORT = 8001
HOST = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = video_scripts.watcher(tmp_path_factory.mktemp("model") / "watcher.keras")
    chosen = video_scripts.script("video").make_parser().parse_args(
        ["--model", str(model), *LOOKS, "--classes", str(model.with_suffix(".txt"))]
    )  # fmt: skip
    return video_scripts.script("running").explaining_of(chosen)


@pytest.fixture
def page(explaining: Any) -> Iterator[Any]:
    """A page that shows a frame with the square in its middle, paused."""
    explaining.wanted = "top1"
    films, views = video_scripts.script("films"), video_scripts.script("views")
    found = video_scripts.script("live").Page(explaining, "a/film.mp4", 80 / 48, lambda: 7)
    shot = explaining.shot(films.Frame(picture(34), 0.0), (240, 400))
    (finding,) = explaining(explaining.fed([shot.fitted]))
    found.show(views.view(shot, finding, 1e-3, 3.0, explaining, "side-by-side"), shot, finding, 1e-3, 3.0, 1)
    found.paused.set()
    yield found
    found.close()


@pytest.fixture
def client(page: Any) -> Any:
    return video_scripts.script("live").make_app(page, PORT).test_client()


def decoded(address: str) -> np.ndarray:
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


SQUARE = {"top": 14, "left": 10, "side": 14, "fill": "black"}  # over the square, in the 32 x 32 of the model


# --- patches -----------------------------------------------------------------------------------


def test_patches_by_numbers() -> None:
    patches = video_scripts.script("patches")
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    kept = image.copy()
    expected = image.copy()
    expected[1:4, 2:5] = 0
    expected[3:6, 4:7] = 255
    expected[:2, :2] = np.rint(image.reshape(-1, 3).mean(0))
    found = patches.patched(
        image,
        [patches.Patch(1, 2, 3, "black"), patches.Patch(3, 4, 3, "white"), patches.Patch(-2, -2, 4, "mean")],
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(patches.patched(image, [patches.Patch(100, 0, 8)]), image)
    with pytest.raises(ValueError, match="red"):
        patches.patched(image, [patches.Patch(0, 0, 8, "red")])


def test_noise_stays_the_same_and_follows_its_place() -> None:
    patches = video_scripts.script("patches")
    image = np.zeros((64, 64, 3), np.uint8)
    patch = patches.Patch(10, 20, 32, "noise")
    found = patches.patched(image, [patch])
    np.testing.assert_array_equal(found, patches.patched(image, [patch]))
    assert (found != patches.patched(image, [patch._replace(seed=1)])).any()
    noise = found[10:42, 20:52]
    assert abs(noise.mean() - 127.5) < 5
    assert noise.std() > 65
    assert found.sum() == noise.sum()
    clipped = patches.patched(image, [patch._replace(top=-4)])
    assert clipped[:28, 20:52].any()
    assert not clipped[28:].any()


@pytest.mark.parametrize(
    "entries",
    [
        "all",
        [5],
        [{"top": 0, "left": 0}],
        [{"top": 0, "left": 0, "side": 7}],
        [{"top": 0, "left": 0, "side": 65}],
        [{"top": 0.5, "left": 0, "side": 8}],
        [{"top": True, "left": 0, "side": 8}],
        [{"top": 0, "left": 0, "side": 8, "fill": "../mean"}],
        [{"top": 0, "left": 0, "side": 8, "seed": -1}],
        [{"top": 0, "left": 0, "side": 8, "more": 1}],
        [{"top": 100, "left": 0, "side": 8}],
        [{"top": 0, "left": -8, "side": 8}],
        [{"top": 0, "left": 0, "side": 8}] * 201,
    ],
)
def test_patches_of_a_request_that_are_refused(entries: object) -> None:
    with pytest.raises(LoadError):
        video_scripts.script("patches").checked(entries, (100, 100))


def test_sides_fit_small_inputs() -> None:
    patches = video_scripts.script("patches")
    assert patches.sides((224, 224)) == (8, 64)
    assert patches.sides((28, 40)) == (8, 28)
    assert patches.sides((4, 4)) == (4, 4)


# --- what requests get -------------------------------------------------------------------------


def test_a_patch_on_the_evidence_lowers_the_score(client: Any, explaining: Any) -> None:
    whole = client.post("/patches", json={"patches": []}, base_url=HOST).get_json()
    assert whole["before"] == whole["after"]
    assert whole["before"]["name"] == "square"
    hidden = client.post("/patches", json={"patches": [SQUARE]}, base_url=HOST).get_json()
    assert hidden["before"] == whole["before"]
    assert hidden["after"]["score"] < 0.2 * whole["before"]["score"]
    assert hidden["after"]["chance"] < 0.5 < whole["before"]["chance"]
    assert hidden["after"]["top"] == "nothing"
    fitted = decoded(hidden["picture"])
    assert not fitted[14:28, 10:24].any()
    x = (fitted / np.float32(255))[None]
    assert float(explaining.explainer.explain(x, 0).logits[0, 0]) == pytest.approx(hidden["after"]["score"], abs=1e-5)
    coloured = [np.ptp(decoded(found["map"]).astype(int), axis=-1).sum() for found in (whole, hidden)]
    assert coloured[0] > 1000 > coloured[1]
    beside = {"top": 0, "left": 0, "side": 8, "fill": "black"}
    other = client.post("/patches", json={"patches": [beside]}, base_url=HOST).get_json()
    assert other["after"]["score"] == pytest.approx(whole["before"]["score"], abs=1e-5)


def test_the_class_that_is_explained(client: Any, page: Any) -> None:
    assert client.post("/target", json={"target": 1}, base_url=HOST).get_json()["wanted"] == 1
    found = client.post("/patches", json={"patches": [SQUARE]}, base_url=HOST).get_json()
    assert found["before"]["name"] == "nothing"
    assert found["after"]["chance"] > found["before"]["chance"]
    assert client.post("/target", json={"target": None}, base_url=HOST).get_json()["wanted"] is None
    for target in (2, -1, "0", True):
        assert client.post("/target", json={"target": target}, base_url=HOST).status_code == 400


def test_a_running_film_is_not_patched(client: Any, page: Any) -> None:
    assert client.post("/pause", json={"paused": False}, base_url=HOST).get_json()["paused"] is False
    answer = client.post("/patches", json={"patches": []}, base_url=HOST)
    assert answer.status_code == 400
    assert "pause it" in answer.get_json()["error"]


def test_state_and_files(client: Any) -> None:
    state = client.get("/state", base_url=HOST).get_json()
    assert state | {"source": "film.mp4", "dropped": 7, "sides": [8, 32], "size": [32, 32]} == state
    assert [entry["name"] for entry in state["top"]] == ["square", "nothing"]
    for name in ("", "live.js", "live.css"):
        answer = client.get(f"/{name}", base_url=HOST)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for name in ("live.py", "..%2fsetup.py", "%2e%2e/setup.py", "stream/all"):
        assert client.get(f"/{name}", base_url=HOST).status_code == 404


def test_the_stream_is_made_of_pictures(client: Any) -> None:
    answer = client.get("/stream/row", base_url=HOST)
    assert answer.content_type == "multipart/x-mixed-replace; boundary=frame"
    parts = answer.iter_encoded()
    assert next(parts) == b"--frame\r\n"
    head, _, jpeg = next(parts).partition(b"\r\n\r\n")
    assert b"image/jpeg" in head
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (262, 804, 3)
    answer.close()


def test_a_paused_picture_is_sent_again(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_scripts.script("live"), "REPEAT", 0.01)
    answer = client.get("/stream/row", base_url=HOST)
    parts = answer.iter_encoded()
    next(parts)
    assert next(parts) == next(parts)
    answer.close()


def test_streams_are_limited(client: Any, page: Any) -> None:
    answers = [client.get("/stream/row", base_url=HOST) for _ in range(8)]
    for answer in answers:
        next(answer.iter_encoded())
    assert client.get("/stream/row", base_url=HOST).status_code == 400
    for answer in answers:
        answer.close()
    assert page._streams == 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"base_url": f"http://evil.example:{PORT}"}, 403),
        ({"base_url": "http://127.0.0.1:9999"}, 403),
        ({"headers": {"Origin": "http://evil.example"}}, 403),
        ({"headers": {"Origin": "null"}}, 403),
        ({"headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ({"data": '{"paused": true}', "content_type": "text/plain"}, 415),
        ({"data": "{", "content_type": "application/json"}, 400),
        ({"data": 30_000 * "[", "content_type": "application/json"}, 400),
        ({"data": "[1]", "content_type": "application/json"}, 400),
        ({"data": '{"paused": 1}', "content_type": "application/json"}, 400),
        ({"data": '{"paused": true, "x": "' + 100_000 * "x" + '"}', "content_type": "application/json"}, 413),
    ],
)
def test_requests_that_are_refused(client: Any, page: Any, request_: dict, code: int) -> None:
    page.paused.clear()
    more = {"base_url": HOST, **request_}
    if "data" not in more:
        more["json"] = {"paused": True}
    assert client.post("/pause", **more).status_code == code
    assert not page.paused.is_set()
    assert client.post("/pause", json={"paused": True}, base_url=HOST, headers={"Origin": HOST}).status_code == 200


def test_it_listens_on_this_machine_alone() -> None:
    with video_scripts.script("live").listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_picture_on_its_way_does_not_replace_a_paused_one(page: Any) -> None:
    now = page._now
    page.show(*now[:5], 2)
    assert page._now is now
    page.paused.clear()
    page.show(*now[:5], 2)
    assert page._now.number == 2


def test_explaining_agrees_with_the_explainer(explaining: Any) -> None:
    fitted = explaining.fit.apply(picture(34))
    x = explaining.fed([fitted, fitted // 2])
    findings = explaining(x, 0)
    relevance = lrp_tf.Explainer(explaining.explainer.model, "epsilon_plus_flat")(x, 0).numpy().sum(-1)
    for finding, expected in zip(findings, relevance, strict=True):
        np.testing.assert_allclose(finding.values, expected, atol=1e-6 * np.abs(relevance).max())
    assert findings[0].best == [0, 1]
    assert findings[1].best == [1, 0]
