"""Write the tiny saved folders that every later version must still open: `tests/data/release-VERSION`.

    python bench/make_release_fixture.py

Run once per release that changes a file format, never again for the same version.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from gen.rpe2d.pipeline import RPE2DPipeline, make_scheduler
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench import __version__
from workbench.classifiers import PixelClassifier, build_classifier, save_classifier
from workbench.records import DatasetWriter

NAMES = ("left", "right")


def main() -> None:
    """Write the three folders and what they should answer."""
    root = Path(__file__).parents[1] / "tests" / "data" / f"release-{__version__}"
    root.mkdir(parents=True)
    torch.manual_seed(0)
    transformer = RPE2DTransformer2DModel(
        sample_size=(8, 12), in_channels=1, num_layers=1, num_attention_heads=2, attention_head_dim=8, num_classes=2,
        max_positions=(4, 6), id2label=dict(enumerate(NAMES)),
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pipe = RPE2DPipeline(transformer, make_scheduler())
    pipe.save_pretrained(root / "pipeline")
    images = pipe(NAMES, 16, 12, 3, 1.5, generator=torch.Generator().manual_seed(7), output_type="pt").images

    network = build_classifier("convnet", 2, 1, (8, 12), width=4, depth=2)
    classifier = PixelClassifier.wrap(network, mean=0.5, std=0.25, class_names=NAMES, size=(8, 12))
    save_classifier(classifier, root / "classifier", {"command": "bench/make_release_fixture.py"})
    save_file({"images": images, "logits": classifier(images).detach()}, root / "expected.safetensors")

    writer = DatasetWriter(root / "dataset", NAMES, {"seed": 0})
    pixels = (images * 255).round().byte().numpy()
    writer.write_shard(0, list(pixels), [{"label": k, "source": "generated", "seed": k} for k in range(len(pixels))])
    writer.finish(seed=0)


if __name__ == "__main__":
    main()
