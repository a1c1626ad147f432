"""Inpaint: several completions of a picture's hole, painted by hand or uploaded, all else as it was to the bit."""

import json
import shutil
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr

from ui.app_config import AppConfig
from ui.inpaint import RESULT, InpaintCommandConfig, fill
from ui.jobs import Report, follow, reporting_passes, sentence
from ui.results import plain, where, zipped
from ui.shelf import Choices, Shelf, about_inpainter, pick
from ui.stop import StopButton
from ui.uploads import example_holes, grown, hole_of, picture_input, read_upload
from workbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool
    from PIL.Image import Image

VIEW = 640  # pixels of the longer side, where the mask is painted
NO_MODEL = (
    "There is no trained inpainter in the served folder: `workbench train inpaint` makes one. Until then the classical "
    "telea fills holes smoothly, in one way."
)


@dataclass(frozen=True)
class Filled:
    """Completions on disk."""

    folder: Path
    variants: list[tuple[str, str]]
    structures: list[tuple[str, str]]
    rivals: list[tuple[str, str]]
    notes: list[str]


def fill_upload(
    config: InpaintCommandConfig, upload: str | None, hole: "Bool[np.ndarray, 'h w']", rivals: Choices, report: Report
) -> Filled:
    """Fill the hole of an uploaded picture, also by each rival once; nothing is left of what is stopped.

    Raises UserError as `fill` does; what a rival cannot do becomes a note.
    """
    import numpy as np
    from PIL import Image

    from ui.models import inpainter

    opened = inpainter(config.pipeline, config.device)
    rows = 0

    def on_row(row: int, ids: Any) -> None:
        nonlocal rows
        rows += 1
        report(rows / (rows + 8), f"row {rows} of the structures")

    with TemporaryDirectory() as folder:
        config.image, config.mask = Path(folder) / "picture", Path(folder) / "mask.png"
        shutil.copyfile(str(upload), config.image)  # the file itself: no name from outside, no pixel changed
        Image.fromarray(hole.astype(np.uint8) * 255).save(config.mask)
        fill(config, opened, on_row)
        shutil.copyfile(config.mask, config.output / "mask.png")
        made = shown(config.output)
        try:
            for number, (name, spec) in enumerate(rivals.items()):
                fill_by_rival(config, name, spec, made.folder / f"rival-{number}", report, made)
        except BaseException:
            shutil.rmtree(made.folder)
            raise
    return made


def fill_by_rival(
    config: InpaintCommandConfig, name: str, spec: str, output: Path, report: Report, made: Filled
) -> None:
    """Fill the same hole in another way, once; adds to what is made the picture, or a note why there is none."""
    from ui.models import inpainter

    asked = InpaintCommandConfig(
        image=config.image, mask=config.mask, output=output, pipeline=spec, num_variants=1, seed=config.seed,
        max_image_pixels=config.max_image_pixels, device=config.device,
    )  # fmt: skip
    report(0.0, name)
    try:
        opened = inpainter(spec, config.device)
        with _stoppable(opened, report):
            fill(asked, opened)
    except UserError as error:
        made.notes.append(f"{name}: {error}")
    else:
        made.rivals.append((str(output / "variant-00.png"), name))


def _stoppable(opened: Any, report: Report) -> AbstractContextManager[None]:
    """RePaint asks a network very often: each time is a place to stop."""
    network = getattr(getattr(opened, "denoiser", None), "transformer", None)
    return nullcontext() if network is None else reporting_passes(network, report)


def shown(folder: Path) -> Filled:
    """What a folder of completions holds."""
    record = json.loads((folder / RESULT).read_text())
    variants, structures = [], []
    for number, one in enumerate(record["variants"]):
        likely = f", {one['log_likelihood']:.2f} nats a token" if "log_likelihood" in one else ""
        variants.append((str(folder / one["file"]), f"variant {number}, seed {one['seed']}{likely}"))
        if "structure" in one:
            structures.append((str(folder / one["structure"]), f"structure of variant {number}"))
    return Filled(folder, variants, structures, [], record["notes"])


def view_of(upload: str | None, max_pixels: int) -> "Image":
    """The picture at the size it is painted on: enlarged in squares or brought down, at its aspect."""
    import numpy as np
    from PIL import Image

    from gen.inpaint.pictures import as_image

    pixels = read_upload(upload, max_pixels).pixels
    image = as_image(pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8)).convert("RGB")
    scale = VIEW / max(image.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def required_hole(
    upload: str | None, editor: dict[str, Any] | None, mask: str | None, grow: int, max_pixels: int
) -> "Bool[np.ndarray, 'h w']":
    """What is painted, or white in the uploaded mask, larger by `grow` pixels, at the picture's size.

    Raises UserError for a picture or a mask that cannot be used.
    """
    picture = read_upload(upload, max_pixels)
    return grown(hole_of(editor, mask, picture.size, max_pixels), grow)


def completions(shelf: Shelf) -> dict[str, str]:
    """Earlier completions, which can be asked for more like them."""
    return {path.parent.name: str(path) for path in sorted((shelf.root / "app").glob(f"*/{RESULT}"))}


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names, rivals = list(shelf.inpainters()), list(shelf.rivals())
    if names in ([], ["telea"]):
        gr.Markdown(NO_MODEL)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("Picture", height=200, elem_id="inpaint-picture")
            editor = gr.ImageEditor(
                label="Paint over what is to be filled", type="pil", sources=(), transforms=(), layers=False,
                format="png", canvas_size=(VIEW, VIEW), height=420, elem_id="inpaint-editor",
                brush=gr.Brush(default_size=32, colors=["#e5383b"], color_mode="fixed"),
            )  # fmt: skip
            with gr.Accordion("The mask: upload (no mouse needed), grow, shrink, keep", open=False):
                gr.Markdown("An uploaded mask has the picture's size, and takes the place of what is painted.")
                mask = picture_input("Mask: white is what to fill", height=160, elem_id="inpaint-mask")
                grow = gr.Slider(-32, 32, 0, step=1, label="Grow by so many pixels", info="Less than 0 shrinks it.")
                look = gr.Button("Show the mask", size="sm")
                used = gr.Image(label="The mask as it is used", format="png", interactive=False, height=160)
            pipeline = gr.Dropdown(names, value=names[0] if names else None, label="Model", allow_custom_value=True)
            about = gr.Markdown(plain(about_inpainter(shelf.inpainters()[names[0]])) if names else "")
            count = gr.Slider(1, min(24, config.max_images), 6, step=1, label="Variants")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="Variant k is drawn from seed + k.")
            with gr.Accordion("More settings", open=False):
                others = gr.Dropdown(
                    rivals, value=[], multiselect=True, label="Rivals on the same mask", allow_custom_value=True,
                    info="RePaint asks a generator that never saw holes, about 250 times: it takes long.",
                )  # fmt: skip
                temperature = gr.Slider(0.1, 1.5, 1.0, label="Temperature", info="Less is likelier and less varied.")
                keep = gr.Slider(0.0, 1.0, 0.5, label="More like this: share of the structure to keep, from the top")
            with gr.Row():
                start = gr.Button("Fill", variant="primary", min_width=90)
                stop = StopButton(min_width=90)
            more = gr.Button("More like the chosen variant")
        with gr.Column(scale=3, min_width=280):
            shared: dict[str, Any] = {"object_fit": "contain", "format": "png", "elem_classes": "pixels"}
            gallery = gr.Gallery(label="Variants", columns=3, height=360, elem_id="filled", **shared)
            slider = gr.ImageSlider(
                label="Before and after: click a variant", elem_classes="pixels", format="png", elem_id="before-after"
            )
            structures = gr.Gallery(label="Structures they were painted over", columns=6, height=150, **shared)
            beside = gr.Gallery(label="Rivals", columns=3, height=290, fit_columns=False, elem_id="rivals", **shared)
            summary = gr.Markdown("Every pixel outside the hole stays as it is.")
            download = gr.DownloadButton("Download all variants", visible=False)
    result, chosen = gr.Textbox(visible=False, label="Result"), gr.Number(0, visible=False, precision=0, label="Chosen")
    fields = [picture, editor, mask, pipeline, count, seed, temperature, keep, grow, others]
    outputs = [gallery, structures, beside, summary, download, result]
    _connect(shelf, config, fields, [result, chosen], (start, more, stop), outputs)
    _connect_views(shelf, config, picture, editor, gallery, result, chosen, slider)
    pipeline.change(_about(shelf), pipeline, about, api_name="about_model")
    look.click(_mask(shelf, config), [picture, editor, mask, grow], used, api_name="mask")
    if names and (examples := example_holes()):
        gr.Examples(examples, [picture, mask], label="Examples: those with a mask only need Fill; paint on the others")


def _about(shelf: Shelf) -> Any:
    def about_model(pipeline: str) -> str:
        """What an inpainter learned from, and its limits; empty where it does not say."""
        return plain(about_inpainter(sentence(lambda: pick(shelf.inpainters, pipeline, "inpainter"), shelf)))

    return about_model


def _mask(shelf: Shelf, config: AppConfig) -> Any:
    def mask(picture: str, editor: Any, mask: str | None = None, grow: int = 0) -> Any:
        """What would be filled, white on black, at the picture's size."""
        from PIL import Image

        hole = sentence(lambda: required_hole(picture, editor, mask, int(grow), config.max_image_pixels), shelf)
        return Image.fromarray(hole)

    return mask


def _connect(
    shelf: Shelf, config: AppConfig, fields: list[Any], like: list[Any], buttons: tuple[Any, ...], outputs: list[Any]
) -> None:
    start, more, stop = buttons

    def filled(
        picture: str, editor: Any, mask: str | None, pipeline: str, num_variants: int, seed: int, temperature: float,
        keep: float, grow: int, rivals: Sequence[str], like: str | None, like_variant: int, progress: gr.Progress,
    ) -> Generator[Any, None, tuple[Any, ...]]:  # fmt: skip
        def work(report: Report) -> Filled:
            if num_variants > config.max_images:
                raise UserError(f"{num_variants} variants are too many for one click; ask for {config.max_images}")
            asked = InpaintCommandConfig(
                image=Path(), mask=Path(), output=shelf.new_result("filled"), num_variants=int(num_variants),
                pipeline=pick(shelf.inpainters, pipeline, "inpainter"),
                temperature=float(temperature), keep=float(keep),
                like=Path(pick(lambda: completions(shelf), like, "earlier result")) if like else None,
                like_variant=int(like_variant), seed=int(seed), max_image_pixels=config.max_image_pixels,
                device=config.device,
            )  # fmt: skip
            others = {name: pick(shelf.rivals, name, "rival") for name in rivals}
            hole = required_hole(picture, editor, mask, int(grow), config.max_image_pixels)
            return fill_upload(asked, picture, hole, others, report)

        made = yield from follow(work, progress, shelf, stop)
        notes = [plain(shelf.told(note)) for note in map(_as_sentence, made.notes)]
        count = f"{len(made.variants)} variant{'s' * (len(made.variants) != 1)}."
        text = " ".join([where(shelf, made.folder, count), *notes])
        download = gr.update(value=zipped(made.folder), visible=True)
        return made.variants, made.structures, made.rivals, text, download, made.folder.name

    def inpaint(
        picture: str, editor: Any, mask: str | None, pipeline: str, num_variants: int = 6, seed: int = 0,
        temperature: float = 1.0, keep: float = 0.5, grow: int = 0, rivals: Sequence[str] = (), like: str | None = None,
        like_variant: int = 0, progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Fill the hole in several ways; returns variants, structures, rivals, where they are kept, a zip, their name.

        `like` is the name of an earlier result of this picture and mask, of which more like `like_variant` are wanted.
        """
        asked = (picture, editor, mask, pipeline, num_variants, seed, temperature, keep, grow, rivals)
        yield (yield from filled(*asked, like, like_variant, progress))

    def more_like_this(
        picture: str, editor: Any, mask: str | None, pipeline: str, num_variants: int, seed: int, temperature: float,
        keep: float, grow: int, rivals: Sequence[str], like: str, like_variant: int,
        progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """As inpaint, like a variant of an earlier result, from the seeds after this one's; rivals stay as they are."""
        if not like:
            raise gr.Error("there is no variant yet; fill the hole first, then click one", print_exception=False)
        asked = (picture, editor, mask, pipeline, num_variants, seed + num_variants, temperature, keep, grow, ())
        variants, structures, _, *rest = yield from filled(*asked, like, like_variant, progress)
        yield variants, structures, gr.skip(), *rest

    stop.counts([start.click, more.click])
    shared: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress_on": outputs[0]}
    fresh, none = gr.Textbox("", visible=False, label="Like"), gr.Number(0, visible=False, label="Like variant")
    first = start.click(inpaint, [*fields, fresh, none], outputs, api_name="inpaint", **shared)
    second = more.click(more_like_this, [*fields, *like], outputs, api_name="more_like_this", **shared)
    stop.ends([first, second], outputs[3])


def _connect_views(
    shelf: Shelf, config: AppConfig, picture: Any, editor: Any, gallery: Any, result: Any, chosen: Any, slider: Any
) -> None:
    def paper(path: str | None) -> Any:
        if not path:
            return None
        view = sentence(lambda: view_of(path, config.max_image_pixels), shelf)
        return {"background": view, "layers": [], "composite": None}

    def compare(path: str | None, name: str, event: gr.SelectData) -> Any:
        folder = Path(sentence(lambda: pick(lambda: completions(shelf), name, "result"), shelf)).parent
        after = str(folder / f"variant-{int(event.index):02d}.png")
        views = sentence(lambda: [view_of(one, config.max_image_pixels) for one in (path, after)], shelf)
        return tuple(views), event.index

    picture.change(paper, picture, editor, api_visibility="private")
    gallery.select(compare, [picture, result], [slider, chosen], api_visibility="private")


def _as_sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."
