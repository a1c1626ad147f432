"""Explain: what a classifier looks at in a picture, by several methods side by side, and in words."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from ui.app_config import AppConfig
from ui.explain import PAGE, RESULT, ExplainConfig, explain_all
from ui.explain_vale import VALE
from ui.jobs import Report, follow, reporting_passes, sentence
from ui.results import plain, where, zipped
from ui.shelf import DEMO_CLASSIFIER, Choices, Shelf, pick, read_json
from ui.stop import StopButton
from ui.uploads import example_pictures, picture_input, read_upload
from workbench.errors import UserError

TTAME = "ttame"
METHODS = (
    TTAME, "gradcam", "gradcam++", "hirescam", "layercam", "scorecam", "eigencam", "rise", "shap", "occlusion", "ig",
    "lrp", VALE, "random", "centre", "edges",
)  # fmt: skip
FIGURES = ("method", "class", "p", "p alone", "p without", "deletion", "insertion", "passes", "seconds")
TRUST = "How far to trust each map: the probability, of the brightest part alone, and without it"
NO_MODULES = "ttame needs a module trained for the classifier: `workbench train ttame` makes one."


@dataclass(frozen=True)
class Explained:
    """An explanation on disk, as the page shows it."""

    folder: Path
    predictions: dict[str, float]
    pictures: list[tuple[str, str]]
    places: dict[str, int]  # of each explained class's first picture
    story: str
    figures: list[list[str]]


def explain_upload(config: ExplainConfig, upload: str | None, explainers: Choices, report: Report) -> Explained:
    """Explain an uploaded picture; each forward pass is a place to stop, and nothing is left then.

    `explainers` are the trained modules among which T-TAME's is looked for. Raises UserError for a picture that cannot
    be read, where there is no module of this classifier, and as `explain_all` does.
    """
    from gen.inpaint.pictures import as_image
    from ui.models import classifier

    picture = read_upload(upload, config.max_image_pixels)
    network = classifier(config.classifier, config.device)
    if TTAME in config.method.split(","):
        config.explainer = required_module(explainers, network)
    with TemporaryDirectory() as folder, reporting_passes(network, report):
        config.image = str(Path(folder) / "picture.png")
        as_image(picture.pixels).save(config.image)
        explain_all(config, network)
    return shown(config.output)


def module_of(explainers: Choices, network: Any) -> Path | None:
    """The newest trained module of this classifier, which its fingerprint tells."""
    fingerprint = network.fingerprint()
    found = [
        Path(folder) for folder in explainers.values()
        if read_json(Path(folder) / "config.json").get("classifier_fingerprint") == fingerprint
    ]  # fmt: skip
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def required_module(explainers: Choices, network: Any) -> Path:
    """The same; raises UserError where there is none: maps of an untrained module would mean nothing."""
    found = module_of(explainers, network)
    if found is None:
        raise UserError(
            "ttame needs a trained module of this classifier, and there is none in the served folder; train one with "
            "workbench train ttame --classifier SPEC --data DATA --output-dir RUN, or leave ttame out"
        )
    return found


def shown(folder: Path) -> Explained:
    """What an explanation's folder holds."""
    result = json.loads((folder / RESULT).read_text())
    predictions = {one["label"]: one["probability"] for one in result["predictions"]}
    pictures: list[tuple[str, str]] = []  # a row of the gallery for each map
    story: list[str] = []
    places: dict[str, int] = {}
    for finding in result["findings"]:
        places.setdefault(finding["label"], len(pictures))
        pictures += _finding(folder, finding)
        named = f"{finding['method']}, {finding['label']}"
        story += [plain(f"{named}: {note}.") for note in finding["notes"]]
    if (folder / "vale.json").exists():
        told = json.loads((folder / "vale.json").read_text())["findings"]
        for finding in told:
            places.setdefault(finding["facts"]["label"], len(pictures))
            pictures += _region(folder, finding)
        story += map(_words, told)
    pictures.append((str(folder / "image.png"), "the picture"))
    figures = [_figures(one, result["costs"]) for one in result["findings"]]
    return Explained(folder, predictions, pictures, places, "\n\n".join(story), figures)


def _finding(folder: Path, finding: dict[str, Any]) -> list[tuple[str, str]]:
    stem, method, label = finding["file"], finding["method"], finding["label"]
    return [
        (str(folder / f"{stem}.png"), f"{method}: {label}, {finding['probability']:.1%}"),
        (str(folder / f"{stem}-kept.png"), f"{method}, brightest part alone: {finding['probability_kept']:.1%}"),
        (str(folder / f"{stem}-removed.png"), f"{method}, without it: {finding['probability_removed']:.1%}"),
    ]


def _figures(finding: dict[str, Any], costs: dict[str, dict[str, Any]]) -> list[str]:
    """How far to trust a map, in the order of FIGURES."""
    cost = costs[finding["method"]]
    probabilities = [f"{finding[key]:.1%}" for key in ("probability", "probability_kept", "probability_removed")]
    erased = [f"{finding[key]:.3f}" for key in ("deletion_blur", "insertion_blur")]
    return [finding["method"], finding["label"], *probabilities, *erased, str(cost["forward_passes"]),
            f"{cost['seconds']:.2f}"]  # fmt: skip


def _region(folder: Path, finding: dict[str, Any]) -> list[tuple[str, str]]:
    stem, label = finding["file"], finding["facts"]["label"]
    captions = {"": "for (red) and against (blue)", "-region": "the region of", "-kept": "region alone:",
                "-removed": "without the region:"}  # fmt: skip
    files = {folder / f"{stem}{ending}.png": f"vale, {text} {label}" for ending, text in captions.items()}
    return [(str(path), caption) for path, caption in files.items() if path.exists()]


def _words(finding: dict[str, Any]) -> str:
    """The measured sentences and the generated ones, never without who wrote them."""
    told = [f"**{plain(finding['facts']['label'])}, measured:** {plain(finding['text'])}"]
    told += [
        f"**Generated by {plain(one['author'])}, may be wrong:** {plain(one['text'])}"
        for one in finding["descriptions"]
    ]
    return "\n\n".join(told)


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names = list(shelf.classifiers())
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("Picture", height=260, elem_id="explain-picture")
            classifier = gr.Dropdown(
                names, value=names[0] if names else None, label="Classifier", allow_custom_value=True,
                info="Of workbench classify train, below the served folder.",
            )  # fmt: skip
            methods = gr.Dropdown(
                list(METHODS), value=["gradcam"], multiselect=True, label="Methods", allow_custom_value=True,
                info="random, centre and edges are controls: a map that looks like them shows little.",
            )  # fmt: skip
            module = gr.Markdown(NO_MODULES if not shelf.explainers() else "")
            target = gr.Textbox("top1", label="Class", info="top1, top5, or a name; or click a bar.")
            with gr.Accordion("More settings", open=False):
                masks = gr.Slider(50, 4000, 300, step=50, label="Random masks of rise")
                keep = gr.Slider(0.02, 0.5, 0.15, label="Share of the pixels that is the brightest part")
                budget = gr.Slider(10, 2000, 500, step=10, label="Passes of shap and vale for a class")
            with gr.Row():
                start = gr.Button("Explain", variant="primary")
                stop = StopButton()
        with gr.Column(scale=3, min_width=280):
            bars = gr.Label(label="Most likely classes: click one", num_top_classes=5, elem_id="classes")
            gallery = gr.Gallery(
                label="Maps, the brightest part alone, and the picture without it", columns=3, height=520,
                object_fit="contain", format="png", elem_id="explained",
            )  # fmt: skip
            summary = gr.Markdown("Upload a picture or click an example, then Explain.", elem_id="explain-summary")
            figures = gr.Dataframe(
                headers=list(FIGURES), label=TRUST, interactive=False, wrap=True, elem_classes="plain-table"
            )
            download = gr.DownloadButton("Download all maps and the report", visible=False)
    places = gr.JSON({}, visible=False, label="First picture of each class")
    fields = [picture, classifier, methods, target, masks, keep, budget]
    _connect(shelf, config, fields, (start, stop), bars, [bars, gallery, summary, figures, download, places])
    for changed in (picture, classifier):
        changed.change(lambda: {}, None, places, api_visibility="private")
    classifier.change(_module(shelf, config), classifier, module, api_name="ttame_module")
    if names and (examples := example_pictures()):
        judge = DEMO_CLASSIFIER if DEMO_CLASSIFIER in names else names[0]
        gr.Examples(
            [[path, judge, ["gradcam", "centre"]] for path in examples], [picture, classifier, methods],
            label="Examples",
        )  # fmt: skip


def _module(shelf: Shelf, config: AppConfig) -> Any:
    def ttame_module(classifier: str) -> str:
        """Whether T-TAME has a trained module of this classifier."""
        explainers = shelf.explainers()
        if not explainers:
            return NO_MODULES
        from ui import models

        spec = sentence(lambda: pick(shelf.classifiers, classifier, "classifier"), shelf)
        found = module_of(explainers, sentence(lambda: models.classifier(spec, config.device), shelf))
        return (
            NO_MODULES if found is None else f"ttame has a trained module of this classifier: `{shelf.shown(found)}`."
        )

    return ttame_module


def _connect(
    shelf: Shelf, config: AppConfig, fields: list[Any], buttons: tuple[Any, StopButton], bars: Any, outputs: list[Any]
) -> None:
    start, stop = buttons

    def explained(
        picture: str, classifier: str, methods: Sequence[str], target: str, num_masks: int, keep: float, budget: int,
        progress: gr.Progress,
    ) -> Generator[Any, None, tuple[Any, ...]]:  # fmt: skip
        def work(report: Report) -> Explained:
            asked = ExplainConfig(
                image="", classifier=pick(shelf.classifiers, classifier, "classifier"), num_masks=int(num_masks),
                output=shelf.new_result("explained"), method=",".join(methods), target=target, keep=float(keep),
                budget=int(budget), max_image_pixels=config.max_image_pixels, device=config.device,
            )  # fmt: skip
            return explain_upload(asked, picture, shelf.explainers(), report)

        made = yield from follow(work, progress, shelf, stop)
        text = where(shelf, made.folder, f"All maps as numbers and pictures, and {PAGE}.")
        download = gr.update(value=zipped(made.folder), visible=True)
        return made.predictions, made.pictures, f"{made.story}\n\n{text}", made.figures, download, made.places

    def explain(
        picture: str, classifier: str, methods: Sequence[str], target: str = "top1", num_masks: int = 300,
        keep: float = 0.15, budget: int = 500, progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Explain a classifier on a picture.

        Returns the likeliest classes, maps, words, figures, a zip of all, and the number of each class's first map.
        """
        yield (yield from explained(picture, classifier, methods, target, num_masks, keep, budget, progress))

    def explain_class(
        picture: str, classifier: str, methods: Sequence[str], target: str, num_masks: int, keep: float, budget: int,
        places: dict[str, int], event: gr.SelectData, progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Explain the class whose bar is clicked, or show its map where it is explained already."""
        label = str(event.value)
        if label in places:
            yield label, gr.skip(), gr.Gallery(selected_index=places[label]), *[gr.skip()] * 4
        else:
            made = yield from explained(picture, classifier, methods, label, num_masks, keep, budget, progress)
            yield label, *made

    stop.counts([start.click, bars.select])
    shared: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress_on": outputs[1]}
    started = start.click(explain, fields, outputs, api_name="explain", **shared)
    inputs = [*fields, outputs[-1]]
    clicked = bars.select(explain_class, inputs, [fields[3], *outputs], api_visibility="private", **shared)
    stop.ends([started, clicked], outputs[2])
