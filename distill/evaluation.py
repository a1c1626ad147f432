"""The figures of a distilled set: test accuracies by architecture, with and without what belongs to the set.

Each figure is kept as it is measured, so that a long evaluation can be stopped and gone on with. Each is measured on
the test images once: nothing is chosen by them.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.baselines.rivals import Problem, chosen
from distill.data import Sources, as_float, checksum, load_sources
from distill.distilled import Distilled
from distill.evaluate import best_step_size, measure
from distill.evaluation_config import EvaluateConfig, TrainingRecipe
from distill.export import PICTURES
from distill.flat import FlatNetwork
from distill.ledger import Figures, Ledger
from distill.nets import NetworkSpec, build_network
from distill.preprocess import Standard
from distill.processes import start_processes
from distill.product import find_distilled, read_distilled, recipe_of
from distill.trained import spec_of
from workbench.datasets import load_images
from workbench.errors import UserError

PLAIN_STEP_SIZE = 0.01  # what a pipeline that knows nothing of the set would take


def evaluate(config: EvaluateConfig) -> Figures:
    """All figures of a set, by name; also written to the output file, if any.

    Raises UserError where the set or its real images are not there, or do not fit together.
    """
    config.check()
    distilled, metadata = read_distilled(config.distilled)
    device = start_processes(config.device).device
    recipe = recipe_of(distilled, metadata)
    recipe = replace(recipe, epochs=config.epochs or recipe.epochs)
    sources = real_images(metadata, config.data)
    asked = {"set": metadata["checksum"], "test": checksum(sources.test), **_settings(config, recipe)}
    exam = Exam(distilled.to(device), sources, recipe, config, Ledger(config.output, asked))
    first, *others = [spec_of(metadata, name) for name in config.networks]
    exam.of_the_set(first)
    exam.without_augmentation(first)
    exam.of_its_pictures(first, find_distilled(config.distilled) / PICTURES)
    exam.of_random_images(first)
    for spec in others:
        exam.of_the_set(spec)
    return exam.ledger.close()


class Exam:
    """The measurements, each of fresh networks on the test images."""

    def __init__(
        self, distilled: Distilled, sources: Sources, recipe: TrainingRecipe, config: EvaluateConfig, ledger: Ledger
    ) -> None:
        self.distilled, self.sources, self.recipe = distilled, sources, recipe
        self.config, self.ledger = config, ledger

    def of_the_set(self, spec: NetworkSpec) -> None:
        """As it is meant to be used."""
        self._note(spec.name, spec, self.distilled, self.recipe)

    def without_augmentation(self, spec: NetworkSpec) -> None:
        """The recipe less its augmentation."""
        plain = replace(self.recipe, augmentation="none")
        self._note(f"{spec.name}, without augmentation", spec, self.distilled, plain)

    def of_its_pictures(self, spec: NetworkSpec, folder: Path) -> None:
        """The 8-bit copies, read as any image folder: by the set's recipe, and by a pipeline that knows none of it."""
        size = (spec.size[0], spec.size[1])
        names = self.distilled.label_names
        copies = load_images(folder, "train", size, names, channels=spec.channels) if folder.exists() else None
        pixels = self.distilled.pixels if copies is None else copies.images
        labels = self.distilled.classes if copies is None else copies.labels
        assert isinstance(pixels, Tensor)
        seen = replace(self.distilled, labels=labels.to(self.distilled.images.device))
        images = pixels.float() / 255
        copied = replace(seen, images=seen.transform.apply(images).to(seen.images.device))
        self._note(f"{spec.name}, 8-bit copies", spec, copied, self.recipe)
        transform = Standard.fit(as_float(self.sources.train))
        plain = replace(seen, images=transform.apply(images).to(seen.images.device), transform=transform)
        recipe = replace(self.recipe, augmentation="none", step_size=PLAIN_STEP_SIZE)
        self._note(f"{spec.name}, 8-bit copies by a plain pipeline", spec, plain, recipe)

    def of_random_images(self, spec: NetworkSpec) -> None:
        """As many random real images by the same recipe, with the step size that is best on held-out images."""
        if not self.config.random_subsets:
            return
        problem = Problem(
            self.sources.train, self.distilled.transform, spec, self.recipe.augmentation, self.distilled.images.device
        )
        recipe = replace(self.recipe, step_size=None)
        subsets = [
            chosen(problem, "random", self.distilled.images_per_class, seed)
            for seed in range(self.config.random_subsets)
        ]

        def accuracies() -> list[float]:
            step_size = self._step_size(subsets[0], spec, recipe)
            found = []
            for seed, subset in enumerate(subsets):
                asked = replace(subset, step_size=step_size)
                found += self._accuracies(spec, asked, recipe, 1, self.config.seed + seed, "random images")
            return found

        self.ledger.note(f"random real images, {spec.name}", accuracies)
        self.ledger.difference(f"{spec.name} minus random real images", spec.name, f"random real images, {spec.name}")

    def _step_size(self, subset: Distilled, spec: NetworkSpec, recipe: TrainingRecipe) -> float:
        if not len(self.sources.validation):
            return subset.step_size
        return best_step_size(subset, FlatNetwork(build_network(spec)), recipe, self.sources.validation).step_size

    def _note(self, name: str, spec: NetworkSpec, distilled: Distilled, recipe: TrainingRecipe) -> None:
        count, seed = self.config.num_networks, self.config.seed
        self.ledger.note(name, lambda: self._accuracies(spec, distilled, recipe, count, seed, name))

    def _accuracies(
        self, spec: NetworkSpec, distilled: Distilled, recipe: TrainingRecipe, count: int, seed: int, name: str
    ) -> list[float]:
        network = FlatNetwork(build_network(spec))
        return measure(distilled, network, recipe, self.sources.test, count, seed, name)


def real_images(metadata: Mapping[str, Any], data: str | None) -> Sources:
    """The real images of a set, held out as when it was made; or others of the same classes and size."""
    settings = metadata["settings"]
    found = load_sources(
        data or metadata["data"],
        (metadata["height"], metadata["width"]),
        metadata["label_names"],
        channels=metadata["channels"],
        validation_share=settings.get("validation_share", 0.1),
        seed=settings.get("split_seed", 0),
    )
    if data is None and checksum(found.train) != metadata["data_checksum"]:
        raise UserError(
            f"{metadata['data']} does not hold the images that the set was made from; give --data {metadata['data']} "
            "to measure it on these all the same"
        )
    return found


def as_table(figures: Figures) -> str:
    """The figures for the terminal."""
    width = max(map(len, figures))
    return "\n".join(
        f"{name:<{width}}  {100 * one['mean']:5.1f} % ± {100 * one['std']:.1f} ({one['n']} networks)"
        for name, one in figures.items()
    )


def _settings(config: EvaluateConfig, recipe: TrainingRecipe) -> dict[str, Any]:
    names = "networks num_networks random_subsets seed"
    return {**{name: getattr(config, name) for name in names.split()}, "recipe": asdict(recipe)}
