"""Debias: what a classifier wrongly relies on, with pictures before and after; leave features out, and go on."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from augment_synth.debias_config import DebiasConfig
from ui import processes
from ui.app_config import AppConfig
from ui.debias import REPORT
from ui.jobs import sentence
from ui.results import handed_out, told_record
from ui.shelf import DEBIASING, Shelf, examples, pick, read_settings, require_own
from ui.tabs.debias_result import FEATURES, feature_row, pairs_page, read_debiasing
from workbench.config import from_mapping
from workbench.errors import UserError

AUTO = "auto"
BEGIN = (
    "Choose a result and click Show. For one of your own, choose a data set that has captions, and a classifier, and "
    "click Debias."
)
RANKING = "Features: share of edits that flip a right answer, its lower bound, and that of edits that leave it alone"
VETO = "Parts of the object itself flip answers too: look at the pairs. Edits are kept; what follows is made again."


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names, sources, judges = list(shelf.debiasings()), list(shelf.data_sets()), list(shelf.classifiers())
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            name = gr.Dropdown(names, value=names[0] if names else None, label="Result", allow_custom_value=True)
            refresh = gr.Button("Look again for results", size="sm")
            with gr.Row():
                show = gr.Button("Show", variant="primary", min_width=90)
                again = gr.Button("Go on", min_width=90)
                stop = gr.Button("Stop", min_width=90)
            with gr.Accordion("Debias a data set", open=False):
                data = gr.Dropdown(sources, value=sources[0], label="Data set", allow_custom_value=True)
                judge = gr.Dropdown(
                    judges, value=judges[0] if judges else None, label="Classifier", allow_custom_value=True
                )
                captioner = gr.Dropdown(
                    [AUTO, *shelf.captioners()], value=AUTO, label="Captions", allow_custom_value=True,
                    info="auto: the data set's own, else BLIP where it is on disk; or a captioner of yours.",
                )  # fmt: skip
                group = gr.Textbox(label="Column of groups", info="To measure by. Discovery never reads it.")
                most = gr.Slider(10, 2000, 500, step=10, label="Images of a class to look at, at most")
                rate = gr.Slider(0.01, 0.9, 0.1, label="Flip rate from which a feature is spurious")
                steps = gr.Slider(10, 5000, 600, step=10, label="Steps of training again")
                start = gr.Button("Debias")
            log = gr.Textbox(label="What it says", lines=8, max_lines=8, autoscroll=True)
        with gr.Column(scale=3, min_width=280):
            summary = gr.Markdown(BEGIN)
            ranking = gr.Dataframe(
                headers=list(FEATURES), label=RANKING, interactive=False, wrap=True, elem_id="features", max_height=640,
                elem_classes="plain-table", column_widths=["12%", "18%", "12%", "8%", "8%", "10%", "11%", "21%"],
            )  # fmt: skip
            feature = gr.Dropdown([], label="Before and after", allow_custom_value=True)
            pairs = gr.HTML(elem_id="pairs")
            veto = gr.Dropdown(
                [], multiselect=True, label="Features to leave out, then Go on", info=VETO, allow_custom_value=True
            )
            groups = gr.Dataframe(
                label="Accuracy in each group, without and with ASPIRE", interactive=False, wrap=True,
                elem_classes="plain-table",
            )  # fmt: skip
            with gr.Accordion("How it was made", open=False):
                facts = gr.JSON(show_label=False)
            report = gr.DownloadButton("Download the report", visible=False)
            pack = gr.Button("Pack the new data set")
            download = gr.DownloadButton("Download the new data set", visible=False)
    seen, shown = [summary, ranking, feature, pairs, veto, groups, facts, report, log], _show(shelf)
    gr.on([show.click, name.select], shown, name, seen, api_name="show_debiased")
    refresh.click(_list(shelf), None, name, api_name="list_debiased")
    feature.select(_pairs(shelf), [name, feature], pairs, api_name="pairs")
    stop.click(_stop(shelf), name, None, api_name="stop_debiasing")
    pack.click(_pack(shelf), name, download, api_name="pack_debiased")
    begun = start.click(
        _debias(shelf, config), [data, judge, captioner, group, most, rate, steps], [name, log], api_name="debias",
        concurrency_id="process", concurrency_limit=2,
    )  # fmt: skip
    gone_on = again.click(
        _again(shelf, config), [name, veto], [name, log], api_name="debias_without", concurrency_id="process",
        concurrency_limit=2,
    )  # fmt: skip
    for event in (begun, gone_on):
        event.then(shown, name, seen, api_visibility="private")
    gr.Examples(examples(names), name, seen, shown, cache_examples=False, run_on_click=True)


def _list(shelf: Shelf) -> Any:
    def list_debiased() -> Any:
        """The results that can be shown."""
        return gr.update(choices=list(shelf.debiasings()))

    return list_debiased


def _stop(shelf: Shelf) -> Any:
    def stop_debiasing(result: str) -> None:
        """Ask a run that was started here to save and end."""
        sentence(lambda: processes.stop(result), shelf)

    return stop_debiasing


def _show(shelf: Shelf) -> Any:
    def show_debiased(result: str) -> tuple[Any, ...]:
        """What is there of a result: text, features, their names, pairs of the first, groups, how, report, log."""
        folder = Path(sentence(lambda: pick(shelf.debiasings, result, "result"), shelf))
        found = read_debiasing(folder, result)
        names, started, finished = list(found.choices()), processes.find(result), (folder / REPORT).exists()
        first = ""
        if names and (folder / "edits.parquet").exists():
            first = sentence(lambda: pairs_page(folder, found.features[0]), shelf)
        head, *rows = found.groups or [["group"]]
        report = gr.update(value=handed_out(shelf, folder / REPORT) if finished else None, visible=finished)
        return (
            shelf.told(found.text), [feature_row(one) for one in found.features],
            gr.update(choices=names, value=names[0] if names else None), first,
            gr.update(choices=list(found.vetoes()), value=found.left_out()), gr.update(headers=head, value=rows),
            told_record(shelf, found.facts), report, "" if started is None else shelf.told(started.told),
        )  # fmt: skip

    return show_debiased


def _pairs(shelf: Shelf) -> Any:
    def pairs(result: str, feature: str) -> str:
        """Pictures of a feature before and after its edit, with the class's probability, as HTML."""

        def work() -> str:
            folder = Path(pick(shelf.debiasings, result, "result"))
            known = read_debiasing(folder, result).choices()
            return pairs_page(folder, known[pick(lambda: {one: one for one in known}, feature, "feature")])

        return sentence(work, shelf)

    return pairs


def _pack(shelf: Shelf) -> Any:
    def pack_debiased(result: str) -> Any:
        """A zip file of the data set with the new images."""

        def work() -> str:
            folder = Path(pick(shelf.debiasings, result, "result"))
            if not (folder / REPORT).exists():
                raise UserError(f"{result} is not finished; go on with it first")
            return handed_out(shelf, folder / "augmented")

        return gr.update(value=sentence(work, shelf), visible=True)

    return pack_debiased


def _debias(shelf: Shelf, config: AppConfig) -> Any:
    def debias(
        data_set: str, classifier: str, captioner: str = AUTO, group_column: str = "", max_images_per_class: int = 500,
        min_flip_rate: float = 0.1, max_train_steps: int = 600,
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Find what a classifier relies on, and train without it; tells what the process prints.

        It goes on when the page is closed.
        """

        def begin() -> processes.Started:
            captioners = {AUTO: AUTO} | shelf.captioners()
            asked = DebiasConfig(
                data=pick(shelf.data_sets, data_set, "data set"), output=output,
                group_column=group_column.strip() or None,
                classifier=pick(shelf.classifiers, classifier, "classifier"), max_train_steps=int(max_train_steps),
                captioner=pick(lambda: captioners, captioner, "captioner"), min_flip_rate=float(min_flip_rate),
                max_images_per_class=int(max_images_per_class), device=config.device,
            )  # fmt: skip
            return processes.start(name, processes.words_of("debias", asked), output.with_suffix(".log"))

        output = shelf.new_result("debiased")
        name = shelf.shown(output)
        started = sentence(begin, shelf)
        for told in started.watch():
            yield gr.update(choices=list(shelf.debiasings()), value=name), shelf.told(told)

    return debias


def _again(shelf: Shelf, config: AppConfig) -> Any:
    def debias_without(result: str, features: list[str]) -> Generator[Any, None, None]:
        """Go on with a result, leaving out these of its features; its edits are kept."""

        def begin() -> processes.Started:
            folder = Path(pick(shelf.debiasings, result, "result"))
            require_own(folder, result)
            asked = from_mapping(DebiasConfig, read_settings(folder / DEBIASING) | {"output": str(folder)})
            found = read_debiasing(folder, result)
            if found.features:
                vetoes = [pick(found.vetoes, one, "feature to leave out") for one in features]
                asked = replace(asked, veto=vetoes)
            words = processes.words_of("debias", replace(asked, device=config.device))
            return processes.start(result, words, folder.with_name(f"{folder.name}.log"))

        for told in sentence(begin, shelf).watch():
            yield result, shelf.told(told)

    return debias_without
