"""Where the workflow keeps what it makes: one function per kind of file, all below ``results/``.

The Snakemake rules and the defaults of the command line both take their paths from here, so a
command typed by hand finds what the workflow made, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpg.run_folder import RunFolder, SweepFolder

if TYPE_CHECKING:
    from dpg.config import RunConfig


@dataclass(frozen=True)
class Layout:
    """The paths of one scale.

    Args:
        scale: the scale's name.
        root: the folder of all results.
    """

    scale: str
    root: Path = Path("results")

    @property
    def sources(self) -> Path:
        """Downloads, shared by all scales."""
        return self.root / "sources"

    @property
    def folder(self) -> Path:
        """Everything of this scale."""
        return self.root / self.scale

    @property
    def articles(self) -> Path:
        """The table of Wikipedia articles: id, title, text, language, split."""
        return self.folder / "text" / "articles.parquet"

    @property
    def passages(self) -> Path:
        """The benchmark's table: id, language, text, source, split."""
        return self.folder / "text" / "passages.parquet"

    @property
    def corpus(self) -> Path:
        """The pre-training text of the tiny models: id, text, language, source."""
        return self.folder / "text" / "corpus.parquet"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of the tiny models."""
        return self.folder / "models" / "tokenizer"

    @property
    def embedding(self) -> Path:
        """The multilingual embedding that is learned from translated passages."""
        return self.folder / "reward-models" / "embedding"

    def packaged_reward_model(self, kind: str) -> Path:
        """The packaged model of an embedding or fastText reward, shared by all scales."""
        return self.sources / "reward-models" / kind

    def reward_model_of(self, run: RunConfig) -> Path | None:
        """The model of a run's reward, if the workflow fetches or makes it."""
        reward = run.reward
        if not reward.made_here:
            return None
        if reward.model is None:
            return self.packaged_reward_model(reward.kind)
        return self.embedding

    def model(self, name: str) -> Path:
        """A model as a Hugging Face directory."""
        return self.folder / "models" / name

    def run(self, experiment: str, variant: str, seed: int | str) -> RunFolder:
        """The folder of a generator run."""
        return RunFolder(self.folder / "runs" / experiment / variant / f"seed{seed}")

    def run_of(self, run: RunConfig) -> RunFolder:
        """The folder of the generator run with this configuration."""
        return self.run(run.experiment, run.variant, run.seed)

    def sweep(self, experiment: str, variant: str) -> SweepFolder:
        """The learning rates tried for a variant: the record, and one run per rate."""
        return SweepFolder(self.folder / "sweeps" / experiment / variant)

    def text_corpus(self, *names: str) -> Path:
        """A corpus for continued pre-training; its record `corpus.json` is written last.

        Args:
            names: "replay", "untuned", or a run's experiment and variant.
        """
        return self.folder / "downstream" / "corpora" / Path(*names)

    @property
    def tasks(self) -> Path:
        """The benchmark's validation and test splits as lm-eval tasks."""
        return self.folder / "downstream" / "tasks"

    def trained(self, target: str, group: str) -> Path:
        """The models trained from a target, for a group: a language, or "common" to all."""
        return self.folder / "downstream" / "models" / target / group

    def perplexity(self, target: str) -> Path:
        """The perplexities of every model trained from a target: its half of Table 1."""
        return self.folder / "downstream" / "perplexity" / f"{target}.json"

    @property
    def judge_cache(self) -> Path:
        """The answers of a paid judge, so that no text is paid for twice."""
        return self.folder / "judge_cache.jsonl"

    @property
    def figures(self) -> Path:
        """Figures and tables."""
        return self.folder / "figures"

    @property
    def claims(self) -> Path:
        """The ledger of the paper's claims: claims.json, claims.md and claims.html."""
        return self.folder / "claims"

    @property
    def findings(self) -> Path:
        """The findings: figure, table and record of each, and the runs that they make."""
        return self.folder / "findings"

    @property
    def report(self) -> Path:
        """The report's own pages: generations.html, provenance.html and runs.csv."""
        return self.folder / "report"

    @property
    def page(self) -> Path:
        """The report: one HTML page that shows everything."""
        return self.folder / "report.html"

    @property
    def appendix(self) -> Path:
        """Snakemake's own report: the rule, the command and the time of every file."""
        return self.report / "snakemake.html"
