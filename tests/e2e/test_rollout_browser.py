"""The page of dumped rollouts in a real browser: colours that a person can check, both sets of boxes, and no text that does anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.serialize import serialize_objects
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.jsonl import read_records
from coordexp.generation.hf import HfBackend
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model, placeholder_ids
from coordexp.rollout.producer import RolloutProducer, RolloutReader, TargetSettings
from coordexp.rollout.samples import ProducedRollout
from coordexp.targets.supervision import stage2_ab_table
from coordexp.training.rollout_dumps import RolloutDumper
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.records import DetObject
from coordexp.types.rollouts import GenerationSettings

pytestmark = pytest.mark.browser

HOSTILE = "'\" onmouseover=alert(1) </script><script>document.title='hacked'</script><img src=x onerror=alert(1)>"
COLOURS = {"structure", "desc", "geometry", "none"}
Opener = Callable[..., Any]


class Edited:
    """The real model, whose answers are then edited: the first is as it came, the others get what an answer can go wrong by."""

    def __init__(self, backend: HfBackend, edits: dict[str, Callable[[str], str]], tokenizer: TextTokenizer) -> None:
        self._backend, self._edits, self._tokenizer = backend, edits, tokenizer
        self.info = backend.info

    def generate(self, requests: Any, settings: GenerationSettings, *, with_trace: bool = False) -> list[Any]:
        return [self._edit(sample, request.id) for request, sample in zip(requests, self._backend.generate(requests, settings), strict=True)]

    def _edit(self, sample: Any, name: str) -> Any:
        text = self._edits[name](sample.text) if name in self._edits else sample.text
        return sample if text == sample.text else replace(sample, text=text, response_ids=self._tokenizer.encode(text).ids)

    def close(self) -> None:
        self._backend.close()


def _with_stray(text: str) -> str:
    """Ends with a hostile object, a repeated one and an entry without coordinates, and breaks off in the middle of another."""
    stray = serialize_objects([DetObject(HOSTILE, "bbox_2d", (700, 20, 980, 300))]).text
    return text.rstrip("}") + '}, "object_7": ' + stray.partition(": ")[2][:-1] + ', "object_8": {"desc": "noise"}, "object_9": {"desc": "cut o'


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory, scenes_jsonl: Path) -> tuple[Path, list[ProducedRollout]]:
    """(page, what it shows); two annotated objects have names that are markup."""
    loaded = load_model(tiny_checkpoint())
    tokenizer = TextTokenizer.of(loaded.tokenizer)  # type: ignore[arg-type]
    records = read_records(scenes_jsonl)
    full = next(number for number, record in enumerate(records) if len(record.objects) == 3)
    objects = records[full].objects
    records[full] = replace(records[full], objects=(*objects[:2], replace(objects[2], desc=HOSTILE), DetObject(HOSTILE, "bbox_2d", (5, 800, 200, 990))))
    source = SegmentSource(
        records,
        image_root=scenes_jsonl.parent,
        encoder=PromptEncoder(loaded.processor),
        tokenizer=loaded.tokenizer,  # type: ignore[arg-type]
        coord_vocab=loaded.coord_vocab,
        settings=SampleSettings(),
    )
    others = [number for number in range(len(records)) if number != full][:2]
    tasks = [source.rollout_task(number, epoch=0) for number in (full, *others)]
    edits = {tasks[0].sample_id: _with_stray, tasks[2].sample_id: lambda text: "no objects here"}
    backend = Edited(HfBackend(loaded), edits, tokenizer)
    reader = RolloutReader(
        backend, tokenizer=tokenizer, coord_vocab=loaded.coord_vocab, generation=GenerationSettings(max_new_tokens=160), forbidden_ids=placeholder_ids(loaded)
    )
    settings = TargetSettings(table=stage2_ab_table(desc_ce_weight_matched=0.5))
    rollouts, _ = RolloutProducer(reader, settings=settings).produce(tasks, seed_base=0)
    folder = tmp_path_factory.mktemp("dump")
    dumper = RolloutDumper(
        folder, every_steps=10, num_samples=4, tokenizer=tokenizer, picture_of=lambda task: source.picture(task.index, epoch=task.epoch), run_name=HOSTILE
    )
    page = dumper.offer(rollouts, step=120)
    assert page is not None
    return page, list(rollouts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_the_page_fits_its_width_and_every_text_contrasts_with_its_ground(
    visit: Opener, dumped: Any, is_dark_on_light: Any, size: tuple[int, int], scheme: str
) -> None:
    with visit(dumped[0], size=size, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert is_dark_on_light(page) == (scheme == "light")
        for kind in COLOURS:
            assert _contrast(page, f".target .t.{kind}") >= 4.5, kind


def _contrast(page: Any, selector: str) -> float:
    """Of the first such token: its text on its ground, or on that of the text block."""
    ink, ground = page.evaluate(
        """selector => { const token = document.querySelector(selector), own = getComputedStyle(token).backgroundColor;
        const block = getComputedStyle(token.closest('.text')).backgroundColor;
        return [getComputedStyle(token).color, own === 'rgba(0, 0, 0, 0)' ? block : own]; }""",
        selector,
    )
    light, dark = sorted((_luminance(color) for color in (ink, ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    channels = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_tokens_of_the_page_are_those_of_the_target_with_what_teaches_them(visit: Opener, dumped: Any) -> None:
    path, rollouts = dumped
    with visit(path) as page:
        sections = page.locator("section.rollout").all()
        assert len(sections) == len(rollouts) == 3
        for section, rollout in zip(sections, rollouts, strict=True):
            classes = section.locator(".target .t").evaluate_all("tokens => tokens.map(token => token.className.split(' '))")
            target = rollout.target.target
            assert [names[2] for names in classes] == [provenance.value for provenance in rollout.target.provenance]
            slots = {position for slot in target.slots for position in slot.positions}
            assert {place for place, names in enumerate(classes) if names[1] == "geometry"} == slots
            taught = {place for place, names in enumerate(classes) if names[1] in {"structure", "desc"}}
            assert taught == set(target.ce_weight.nonzero()[0].tolist())
            text = "".join(section.locator(".target .t").evaluate_all("tokens => tokens.map(token => token.textContent)"))
            assert text == rollout.target.text
            grounds = section.locator(".target .t").evaluate_all("tokens => tokens.map(token => getComputedStyle(token).backgroundColor)")
            colour_of = {names[1]: ground for names, ground in zip(classes, grounds, strict=True)}
            assert len(set(colour_of.values())) == len(colour_of)


def test_counts_by_origin_add_up_to_the_target(visit: Opener, dumped: Any) -> None:
    path, rollouts = dumped
    with visit(path) as page:
        for section, rollout in zip(page.locator("section.rollout").all(), rollouts, strict=True):
            cells = section.locator(".counts-by-origin td").evaluate_all("cells => cells.map(cell => Number(cell.textContent))")
            assert sum(cells) == len(rollout.target.target.token_ids)
            unmatched = section.locator(".counts-by-origin tr[data-origin=unmatched] td").evaluate_all("cells => cells.map(cell => Number(cell.textContent))")
            assert unmatched[:3] == [0] * len(unmatched[:3])


def test_both_sets_of_boxes_lie_where_their_bins_say(visit: Opener, dumped: Any) -> None:
    path, rollouts = dumped
    with visit(path) as page:
        section = page.locator("section.rollout").first
        for figure, objects in (("figure:nth-child(1)", rollouts[0].read.task.objects), ("figure:nth-child(2)", rollouts[0].read.parsed.objects)):
            shot = section.locator(f"{figure} .shot").bounding_box()
            boxes = section.locator(f"{figure} .mark .edge").evaluate_all(
                "edges => edges.map(edge => { const box = edge.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; })"
            )
            points = [item.to_object().points if hasattr(item, "to_object") else item.points for item in objects]
            for box, bins in zip(boxes, points, strict=True):
                expected = [
                    shot["x"] + bins[0] / 999 * shot["width"],
                    shot["y"] + bins[1] / 999 * shot["height"],
                    shot["x"] + bins[2] / 999 * shot["width"],
                    shot["y"] + bins[3] / 999 * shot["height"],
                ]
                assert box == pytest.approx(expected, abs=1.5)
        assert section.locator("figure:nth-child(1) .mark.miss").count() == len(rollouts[0].read.match.missed) >= 1
        assert section.locator("figure:nth-child(2) .mark.false").count() == len(rollouts[0].read.match.unmatched) >= 1
        assert section.locator("img").first.evaluate("image => image.naturalWidth") == 96


def test_hostile_names_are_shown_and_do_nothing(visit: Opener, dumped: Any) -> None:
    with visit(dumped[0]) as page:
        assert page.title() == f"Rollouts of step 120 · {HOSTILE}"
        assert page.locator("img[src=x]").count() == page.locator("script").count() == page.locator("[onmouseover]").count() == 0
        assert page.locator(".tag", has_text="document.title='hacked'").count() >= 2
        assert page.locator(".objects th", has_text="document.title='hacked'").count() >= 2


def test_what_went_wrong_in_an_answer_is_visible(visit: Opener, dumped: Any) -> None:
    with visit(dumped[0]) as page:
        first, last = page.locator("section.rollout").first, page.locator("section.rollout").last
        assert first.locator(".answer .t.dropped").count() > 3
        assert first.locator(".answer .t.cut").count() > 3
        assert "missing_geom" in first.locator(".objects").inner_text()
        assert last.locator(".answer .t").count() == last.locator(".answer .t.cut").count()
        assert "all annotated objects count as missed" in last.locator(".notice").inner_text()


def test_the_json_beside_the_page_says_the_same(dumped: Any) -> None:
    path, rollouts = dumped
    stored = json.loads(path.with_suffix(".json").read_text())
    assert (stored["schema_version"], stored["step"], stored["num_rollouts"]) == (1, 120, 3)
    for item, rollout in zip(stored["rollouts"], rollouts, strict=True):
        assert [token["id"] for token in item["target"]] == rollout.target.target.token_ids.tolist()
        assert "".join(token["text"] for token in item["answer"]) == rollout.read.sample.text
        assert [token["provenance"] for token in item["target"]] == [provenance.value for provenance in rollout.target.provenance]
