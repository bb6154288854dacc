"""The paper's claims that results can support, in the order of its sections.

arXiv:2604.08423, "Synthetic Data for any Differentiable Target". A claim about all of several
things holds only where each of them does.
"""

from __future__ import annotations

import functools

from dpg.claims import checks
from dpg.claims.verdicts import Claim
from dpg.text.languages import TARGET_CODES, language


def _language_claims(code: str) -> list[Claim]:
    name = language(code).name
    return [
        Claim(
            f"language-{code}",
            "section 4.4, figure 4 (top)",
            f"With Adam in A, the generator learns to write {name}, which no prompt mentions.",
            f"By the judge, more than half of the validation rollouts are {name} at the end, and "
            "fewer than a tenth before training.",
            functools.partial(checks.learns_language, code=code),
        ),
        Claim(
            f"entropy-{code}",
            "section 4.4, figure 4 (bottom)",
            f"It learns {name} while the entropy of its rephrases is maintained.",
            "As above, and at least three quarters of the bits of bigram entropy are left.",
            functools.partial(checks.keeps_entropy, code=code),
        ),
        Claim(
            f"baselines-{code}",
            "section 4.4, figure 4",
            f"No baseline learns {name}, except where its entropy collapses.",
            "At the end of SGD, naive, embedding, fasttext and Levenshtein each: at most half of "
            f"the rollouts are {name}, or less than three quarters of the bigram entropy is left; "
            "and Adam has learned it.",
            functools.partial(checks.baselines_fail, code=code),
        ),
    ]


def _table_1_claims() -> list[Claim]:
    return [
        Claim(
            f"table-1-adam-{target.removeprefix('llama-')}",
            "appendix C, table 1",
            f"Text of the Adam generator gives {words} the lowest perplexity of all sources but "
            "fine-tuning on the benchmark.",
            "Its perplexity over the lowest of the other rows', for each of the four languages.",
            functools.partial(checks.adam_leads_table_1, target=target),
        )
        for target, words in (
            ("llama-instruct", "the model that it was made for"),
            ("llama-base", "the base model"),
        )
    ]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "qr-scans",
        "figure 1, section 4.1",
        "Training on the generator's text leaves a QR code in the target's LM head that scans.",
        "A QR reader decodes the sign of the LM head's change to the payload at the last "
        "validation of every seed, and does not before training.",
        checks.qr_scans,
    ),
    Claim(
        "theorem-sgd",
        "section 3.2, theorem 3.1",
        "For SGD the metagradient reward's policy gradient is within O(eta^(1/4) B^(-1/2) + "
        "sqrt(eta T)) of the ideal one.",
        "On a policy small enough to enumerate: towards small eta, large B and large T the error's "
        "exponent is at least as good as the bound's.",
        functools.partial(checks.theorem, optimizer="sgd"),
    ),
    Claim(
        "theorem-adam",
        "section 3.2, conjecture",
        "Using Adam, like SGD, would result in a reasonable bound, but still with some error.",
        "The same check with the Adam of Table 8 (eps_root = 1e-9) on the same policy, where "
        "gradients are near 1.",
        functools.partial(checks.theorem, optimizer="adam"),
    ),
    Claim(
        "theorem-adam-smooth",
        "section 3.2, conjecture",
        "The same, where Adam is smooth in the gradient.",
        "The same check with eps_root = 1, the size of a squared gradient there.",
        functools.partial(checks.theorem, optimizer="adam-smooth"),
    ),
    Claim(
        "sixseven-exact",
        "section 4.2, figure 3",
        "With Adam at the longest T the generator's text embeds the 67 perfectly.",
        "All pixels right at the last validation of the run, or of its redo with other prompts "
        "where the study has one (the paper needed the redo).",
        checks.sixseven_exact,
    ),
    Claim(
        "sixseven-only-adam-long",
        "section 4.2, figure 3",
        "Only Adam with the longest T in A achieves a perfect 67.",
        "As above, and fewer than all pixels right at the end for Adam at the shorter T, SGD and "
        "naive at every T.",
        checks.sixseven_only,
    ),
    Claim(
        "sixseven-several-steps-best",
        "section 4.2, figure 2 (left)",
        "Using Adam in A with several training steps does best.",
        "Pixels right at the end: the worse of Adam's two longer T minus each other variant.",
        checks.several_steps_best,
    ),
    Claim(
        "more-steps-help",
        "section 4.2, figure 2 (left)",
        "More steps in A help the 67 (the paper: a weak correlation).",
        "Pixels right at the end, Adam at the longest T minus Adam at T = 1.",
        checks.more_steps,
    ),
    Claim(
        "more-steps-stable",
        "section 4.2, figure 2 (left)",
        "Validation is more stable with more steps in A.",
        "Over the second half, how far the curve of correct pixels moves beyond its net change: "
        "T = 1 minus the longest T.",
        checks.more_steps_stable,
    ),
    Claim(
        "adam-beats-sgd",
        "sections 1 and 4.2, figure 2 (left)",
        "The optimizer in A matters: Adam's metagradients do better than SGD's, at one step too.",
        "Pixels right at the end, Adam minus SGD, at each of the three T.",
        checks.adam_beats_sgd,
    ),
    Claim(
        "cross-group-batching",
        "section 4.2, figure 2 (left), figure 7",
        "Cross-group batching costs next to nothing.",
        "Pixels right at the end, without minus with, below 0.05 (two pixels of 42); and the run "
        "with it gained more than 0.1.",
        checks.batching_is_free,
    ),
    Claim(
        "coherent-rephrases",
        "section 4.2, table 2",
        "The generator's text still reads as a coherent rephrase while it encodes the 67.",
        "None.",
        checks.coherent,
    ),
    Claim(
        "norm-falls",
        "section 4.3, figure 2 (right)",
        "With Adam the generator's text lowers the l2 norm of the target's LM head.",
        "At the longest T, the norm after training on the text minus before is negative at the "
        "end, and lower than for the untrained generator's text.",
        checks.norm_falls,
    ),
    Claim(
        "norm-only-adam",
        "section 4.3, figure 2 (right)",
        "Adam is the only approach that makes reasonable progress on the norm.",
        "Progress is the norm's change at the start of the generator's training minus at its end; "
        "SGD and naive at every T make less than half of Adam's at the longest T.",
        checks.norm_only_adam,
    ),
    Claim(
        "norm-plateau",
        "section 4.3, figure 2 (right)",
        "With a single step in A the performance on the norm plateaus early.",
        "Adam with T = 1 makes a smaller share of its progress in the second half than at the "
        "longest T, and ends higher.",
        checks.norm_plateau,
    ),
    *(claim for code in TARGET_CODES for claim in _language_claims(code)),
    Claim(
        "style-first",
        "appendix D, table 4",
        "The generator learns the benchmark's style, stories, before it switches to Spanish.",
        "A word-count classifier, learned on the scale's English passages and articles and right "
        "on at least 90 % of unseen pieces, reads the rollouts that are judged English: half are "
        "stories at an earlier validation than half of all rollouts are Spanish.",
        checks.style_first,
    ),
    Claim(
        "uuid-exact",
        "section 4.5, figure 5",
        "With Adam the generator learns to write the UUID, which no prompt contains.",
        "More than half of the validation rollouts contain it whole at the end, none before.",
        checks.uuid_learned,
    ),
    Claim(
        "uuid-only-adam",
        "section 4.5, figure 5",
        "With SGD or naive rewards no component of the UUID becomes more frequent.",
        "The longest part found in a rollout, in the mean, never rises by a tenth of the UUID, and "
        "the whole never occurs; and Adam has learned it.",
        checks.uuid_only_adam,
    ),
    *_table_1_claims(),
    Claim(
        "table-1-sgd",
        "section 4.4, appendix C, table 1",
        "SGD's text lowers the perplexity of both models though it is not in the language.",
        "Fewer than half of its rollouts are in the language at the end; its perplexity over the "
        "lowest of before, replay and untuned is below 1 for both models and all languages.",
        checks.sgd_helps_without_language,
    ),
    Claim(
        "table-1-sft",
        "appendix C, table 1",
        "Fine-tuning on the benchmark's train split stays below synthetic text.",
        "Its perplexity over that of Adam's text is below 1 for both models and all languages.",
        checks.sft_is_lower,
    ),
    Claim(
        "transfer-to-base",
        "appendix C, table 1",
        "The text transfers to a base model for which the generator was not optimized.",
        "On the base model, perplexity of Adam's text over the lowest of before, replay, untuned.",
        functools.partial(checks.transfers, target="llama-base"),
    ),
    Claim(
        "transfer-to-pytorch",
        "section 4.4, appendix C, table 1",
        "It transfers from one step in JAX to continued pre-training in PyTorch, and from the "
        "model's loss to lm-eval's perplexity.",
        "On the instruct model, perplexity of Adam's text over the lowest of before, replay, "
        "untuned.",
        functools.partial(checks.transfers, target="llama-instruct"),
    ),
    Claim(
        "naive-fails",
        "sections 4.2 to 4.5, figures 2, 4 and 5",
        "Rewarding with the metric itself (naive) fails where metagradients succeed.",
        "In each experiment the naive reward gains less than half of what Adam's metagradients do.",
        checks.naive_fails,
    ),
    Claim(
        "table-1-naive",
        "appendix C, table 1",
        "Text of the naive generator hardly helps on the benchmark.",
        "It lowers the log perplexity by less than half of what Adam's text does.",
        checks.naive_in_table_1,
    ),
)
"""Every claim of the paper that results can support, in the order of its sections."""
