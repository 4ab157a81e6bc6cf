"""Videos: frames, files on disk, questions to a model that takes them, and what is refused before a model loads."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from evaluation_support import Loaded, facts, small_model
from lmms_eval.tasks import TaskManager, get_task_dict

from clasp.backbones.presentation import Presentation
from clasp.evaluation.benchmarks import BENCHMARKS, TASKS
from clasp.evaluation.generation.answering import Answerer, EvaluationError, Question
from clasp.evaluation.questions.frames import VideoError, sample, uniform
from clasp.evaluation.questions.videos import SETS, ensure_videos
from clasp.methods import build
from clasp.strict import ConfigError

FRAMES, STEP = 40, 6
TINY_VIDEO = "video_llava"


def write_video(path: Path, codec: str = "libx264", header_first: bool = False, **options: str) -> Path:
    """Frame i is grey of brightness 6 i."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if header_first else {}) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i * STEP, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "grey.mp4")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "libx264", {}), ("a.mkv", "libx264", {}), ("a.avi", "mpeg4", {}), ("b.avi", "mpeg4", {"bf": "2"})],
)
def test_frames_are_those_at_uniform_places(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    clip = sample(write_video(tmp_path / name, codec, **options), 8)
    assert clip.indices.tolist() == [0, 5, 11, 16, 22, 27, 33, 39]
    assert (clip.total, clip.fps, clip.frames.shape) == (FRAMES, 10.0, (8, 48, 64, 3))
    shown = clip.frames[:, 20, 20, 0] / STEP
    assert np.abs(shown - clip.indices).max() < 1.5  # lossy


def test_frames_of_an_array_and_of_a_short_one() -> None:
    array = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert sample(array, 8).frames[:, 0, 0, 0].tolist() == uniform(3, 8).tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    with pytest.raises(VideoError, match="float32"):
        sample(array.astype(np.float32), 8)


@pytest.mark.parametrize("name", ["cut.mp4", "cut_late.mp4", "cut.mkv", "cut.avi", "text.mp4", "absent.mp4"])
def test_damaged_videos_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("cut"):
        write_video(path, "mpeg4" if name.endswith(("avi", "late.mp4")) else "libx264", header_first="late" in name)
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size - 40 if "late" in name else size * 2 // 3])  # 40: in the last frame
    elif name == "text.mp4":
        path.write_text("not a video")
    with pytest.raises(VideoError, match=name):
        sample(path, 8)


@pytest.fixture(scope="module")
def asked(video: Path) -> list[Question]:
    random = np.random.default_rng(0).integers(0, 256, (11, 40, 40, 3), dtype=np.uint8)
    settings = {"max_new_tokens": 4}
    return [
        Question("v[0]", "what is shown?", (), settings, None, [str(video)]),
        Question("v[1]", "is there a star in the video? answer yes or no", (), settings, None, [random]),
        Question("v[2]", "what color is grass?", (), settings),
    ]


@pytest.mark.parametrize("family", [TINY_VIDEO, "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("method", ["none", "clasp", "framefusion"])
def test_videos_in_batches_are_answered_as_alone(family: str, method: str, asked: list[Question]) -> None:
    loaded = small_model(family)
    own = {} if method == "none" else {"ratio": 0.6} | ({"router": "keyword"} if method == "clasp" else {})
    together = Answerer(*loaded, build(method, own), batch_size=3).answer(asked)
    alone = Answerer(*loaded, build(method, own), batch_size=1).answer(asked)
    assert facts(together) == facts(alone)
    assert together[2].entering == ()
    if family == TINY_VIDEO and method == "none":
        assert together[0].entering[0] == 8 * (4 * 4 + 1)  # 8 frames of 32 px in patches of 8, each with its CLS token


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_qwen_sees_as_many_frames_as_lmms_evals_classes_and_when_each_was(family: str, video: Path) -> None:
    """32, in pairs; of a video of 40 frames at 10 a second."""
    spec = importlib.util.find_spec(f"lmms_eval.models.simple.{family}")  # which itself asks for decord, not here
    assert spec is not None
    assert spec.origin is not None
    count = int(re.findall(r"max_num_frames: int = (\d+)", Path(spec.origin).read_text())[0])
    model, processor = small_model(family)
    inputs = Answerer(model, processor, build("none", {}))._inputs([Question("v", "what?", (), {}, None, [str(video)])])
    pairs, rows, columns = inputs["video_grid_thw"][0].tolist()
    assert 2 * pairs == count == 32
    placeholder = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
    assert int((inputs["input_ids"] == placeholder).sum()) == pairs * rows * columns // 4
    if family == "qwen2_5_vl":  # seconds from one pair to the next
        assert [float(seconds) for seconds in inputs["second_per_grid_ts"]] == [pytest.approx(2 * FRAMES / count / 10)]
    else:
        text = processor.tokenizer.decode(inputs["input_ids"][0])
        shown = uniform(FRAMES, count).reshape(-1, 2).mean(axis=1) / 10
        assert re.findall(r"<([\d.]+) seconds>", text) == [f"{seconds:.1f}" for seconds in shown]


def test_a_backbone_can_be_shown_another_number_of_frames(asked: list[Question]) -> None:
    for frames, pairs in ((6, 3), (5, 3), (None, 16)):
        shown = Presentation(frames=frames)
        answerer = Answerer(*small_model("qwen2_5_vl"), build("none", {}), presentation=shown)
        assert answerer._inputs(asked[:1])["video_grid_thw"][0, 0] == pairs


def test_a_damaged_or_missing_video_is_an_error_of_its_question(video: Path, tmp_path: Path) -> None:
    answerer = Answerer(*small_model(TINY_VIDEO), build("none", {}))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(video.read_bytes()[:900])
    for path, reason in ((bad, "cannot be read|damaged"), (tmp_path / "gone.mp4", "missing")):
        with pytest.raises(EvaluationError, match=rf"set\[7\].*{path.name}.*({reason})"):
            answerer.answer([Question("set[7]", "what?", (), {"max_new_tokens": 2}, None, [str(path)])])


def test_a_backbone_without_videos_refuses_them(tiny: Loaded, video: Path) -> None:
    with pytest.raises(EvaluationError, match=r"set\[0\].*LlavaForConditionalGeneration.*video_llava_7b"):
        Answerer(*tiny, build("none", {})).answer([Question("set[0]", "what?", (), {}, None, [str(video)])])


def lay_out(data: Path, name: str, video: Path, videos: int = 2) -> None:
    root = data / "video" / name
    (root / SETS[name][0]).mkdir(parents=True)
    asked = [{"question_id": f"v_{i}", "video_name": f"clip{i}", "question": f"what is in {i}?"} for i in range(2)]
    told = [{"question_id": f"v_{i}", "answer": f"thing {i}", "type": 0} for i in reversed(range(2))]
    (root / "test_q.json").write_text(json.dumps(asked))
    (root / "test_a.json").write_text(json.dumps(told))
    for i in range(videos):
        (root / SETS[name][0] / f"{SETS[name][1]}clip{i}.mp4").write_bytes(video.read_bytes())


@pytest.mark.parametrize("name", SETS)
def test_a_set_on_disk_is_an_lmms_eval_task(name: str, tmp_path: Path, video: Path) -> None:
    lay_out(tmp_path, name, video)
    manager, own = TaskManager(include_path=str(TASKS), include_defaults=False), BENCHMARKS[name].task
    task = get_task_dict([{"task": own, "dataset_kwargs": {"root": str(tmp_path)}}], manager)[own]
    documents = list(task.eval_docs)
    assert [task.doc_to_text(document) for document in documents] == ["what is in 0?", "what is in 1?"]
    assert [task.doc_to_target(document) for document in documents] == ["thing 0", "thing 1"]
    assert all(Path(task.doc_to_visual(document)[0]).is_file() for document in documents)
    assert task.process_results(documents[0], [" "]) == {"answered": 0.0}
    assert task.process_results(documents[0], ["a thing"]) == {"answered": 1.0}


def test_missing_files_are_refused_in_one_sentence(tmp_path: Path, video: Path) -> None:
    with pytest.raises(ConfigError, match=r"tgif: .*test_q.json is missing; put .*mp4/"):
        ensure_videos(tmp_path, ["tgif"])
    lay_out(tmp_path, "activitynet", video, videos=1)
    with pytest.raises(ConfigError, match=r"activitynet: 1 of 2 videos .*all_test \(v_clip1\); put them there"):
        ensure_videos(tmp_path, ["activitynet"])
    found = ensure_videos(tmp_path, ["activitynet"], limit=1)  # the first question's video is there
    assert found["activitynet"].questions == 2
    (tmp_path / "video" / "activitynet" / "test_a.json").write_text("[]")
    with pytest.raises(ConfigError, match="no answer to 2 questions, first 'v_0'"):
        ensure_videos(tmp_path, ["activitynet"], limit=1)
