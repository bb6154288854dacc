"""The paper's claims that results can support, in the order of its sections.

arXiv:2604.08423, "Synthetic Data for any Differentiable Target". A claim about several things holds
only if it holds for each of them. Reports quote the texts of the claims.
"""

from __future__ import annotations

import functools

from dpg.claims.checks import downstream, texts, theorem, weights
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
            functools.partial(texts.learns_language, code=code),
        ),
        Claim(
            f"entropy-{code}",
            "section 4.4, figure 4 (bottom)",
            f"It learns {name} while the entropy of its rephrases is maintained.",
            "As above, and less than one bit of bigram entropy is lost: 2^H, the number of bigrams "
            "that the text in effect uses, is at least half of that before training.",
            functools.partial(texts.keeps_entropy, code=code),
        ),
        Claim(
            f"baselines-{code}",
            "section 4.4, figure 4",
            f"No baseline learns {name}, except where its entropy collapses.",
            "At the end of SGD, naive, embedding, fasttext and Levenshtein each: at most half of "
            f"the rollouts are {name}, or one bit of bigram entropy or more is lost; and Adam has "
            "learned it.",
            functools.partial(texts.baselines_fail, code=code),
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
            functools.partial(downstream.adam_leads, target=target),
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
        weights.qr_scans,
    ),
    Claim(
        "theorem-sgd",
        "section 3.2, theorem 3.1",
        "For SGD the metagradient reward's policy gradient is within O(eta^(1/4) B^(-1/2) + "
        "sqrt(eta T)) of the ideal one.",
        "On a policy small enough to enumerate: the error is below half of the ideal gradient and "
        "the two gradients' cosine above 0.9 at every setting; the error's exponent is at least "
        "1/4 towards small eta, at most 0 towards large B and at most 1/2 towards large T.",
        functools.partial(theorem.theorem, optimizer="sgd"),
    ),
    Claim(
        "theorem-adam",
        "section 3.2, conjecture",
        "Using Adam, like SGD, would result in a reasonable bound, but still with some error.",
        "The same check with the Adam of Table 8 (eps_root = 1e-9) on the same policy, where "
        "gradients are near 1.",
        functools.partial(theorem.theorem, optimizer="adam"),
    ),
    Claim(
        "theorem-adam-smooth",
        "section 3.2, conjecture",
        "The same, where Adam is smooth in the gradient.",
        "The same check with eps_root = 1, the size of a squared gradient there.",
        functools.partial(theorem.theorem, optimizer="adam-smooth"),
    ),
    Claim(
        "sgd-dot-product",
        "section 1",
        "With SGD and a single step in A the metagradient is the dot product of the target's and "
        "the example's gradients; with Adam there are further terms.",
        "On a small network in float64, the learner's metagradients beside -rate / B times the "
        "products of gradients by jax.grad alone: equal to 1e-10 for SGD, not in one direction "
        "for Adam (cosine below 0.99).",
        theorem.dot_product,
    ),
    Claim(
        "sixseven-exact",
        "section 4.2, figure 3",
        "With Adam at the longest T the generator's text embeds the 67 perfectly.",
        "Of the runs and their redo with other prompts, where the study has one, at least half end "
        "with all pixels right (in the paper the redo did, the first run did not).",
        weights.sixseven_exact,
    ),
    Claim(
        "sixseven-only-adam-long",
        "section 4.2, figure 3",
        "Only Adam with the longest T in A achieves a perfect 67.",
        "As above, and fewer than all pixels right at the end for Adam at the shorter T, SGD and "
        "naive at every T, with every seed.",
        weights.sixseven_only,
    ),
    Claim(
        "sixseven-several-steps-best",
        "section 4.2, figure 2 (left)",
        "Using Adam in A with several training steps does best.",
        "Pixels right at the end: the worse of Adam's two longer T minus each other variant.",
        weights.several_steps_best,
    ),
    Claim(
        "more-steps-help",
        "section 4.2, figure 2 (left)",
        "More steps in A help the 67 (the paper: a weak correlation).",
        "Pixels right at the end, Adam at the longest T minus Adam at T = 1.",
        weights.more_steps,
    ),
    Claim(
        "more-steps-stable",
        "section 4.2, figure 2 (left)",
        "Validation is more stable with more steps in A.",
        "How far the curve of correct pixels moves beyond its net change, per validation, as long "
        "as it is more than a pixel below the whole image: T = 1 minus the longest T.",
        weights.more_steps_stable,
    ),
    Claim(
        "adam-beats-sgd",
        "sections 1 and 4.2, figure 2 (left)",
        "The optimizer in A matters: Adam's metagradients do better than SGD's, at one step too.",
        "Pixels right at the end, Adam minus SGD, at each of the three T.",
        weights.adam_beats_sgd,
    ),
    Claim(
        "cross-group-batching",
        "section 4.2, figure 2 (left), figure 7",
        "Cross-group batching costs next to nothing.",
        "Pixels right at the end, without minus with, below 0.05 (two pixels of 42); and the run "
        "with it gained more than 0.1.",
        weights.batching_is_free,
    ),
    Claim(
        "coherent-rephrases",
        "section 4.2, table 2",
        "The generator's text still reads as a coherent rephrase while it encodes the 67.",
        "Of its pairs of neighbouring words, the share that occurs in the scale's articles is at "
        "least three quarters of the untuned generator's, of which half must occur there.",
        texts.coherent,
    ),
    Claim(
        "norm-falls",
        "section 4.3, figure 2 (right)",
        "With Adam the generator's text lowers the l2 norm of the target's LM head.",
        "At the longest T, the norm after training on the text minus before is negative at the "
        "end, and lower than for the untrained generator's text.",
        weights.norm_falls,
    ),
    Claim(
        "norm-only-adam",
        "section 4.3, figure 2 (right)",
        "Adam is the only approach that makes reasonable progress on the norm.",
        "Progress is the norm's change at the start of the generator's training minus at its end; "
        "SGD and naive at every T make less than half of Adam's at the longest T.",
        weights.norm_only_adam,
    ),
    Claim(
        "norm-plateau",
        "section 4.3, figure 2 (right)",
        "With a single step in A the performance on the norm plateaus early.",
        "Adam with T = 1 makes a smaller share of its progress in the second half than at the "
        "longest T, and ends higher.",
        weights.norm_plateau,
    ),
    Claim(
        "norm-incoherent",
        "section 4.3, table 3",
        "The text of the norm's generator is no longer coherent by the last step.",
        "The same share is less than three quarters of the untuned generator's.",
        texts.norm_incoherent,
    ),
    *(claim for code in TARGET_CODES for claim in _language_claims(code)),
    Claim(
        "style-first",
        "appendix D, table 4",
        "The generator learns the benchmark's style, stories, before it switches to Spanish.",
        "A word-count classifier, learned on the scale's English passages and articles and right "
        "on at least 90 % of unseen pieces, reads the rollouts that are judged English: half are "
        "stories at an earlier validation than half of all rollouts are Spanish.",
        texts.style_first,
    ),
    Claim(
        "uuid-exact",
        "section 4.5, figure 5",
        "With Adam the generator learns to write the UUID, which no prompt contains.",
        "More than half of the validation rollouts contain it whole at the end, none before.",
        texts.uuid_learned,
    ),
    Claim(
        "uuid-only-adam",
        "section 4.5, figure 5",
        "With SGD or naive rewards no component of the UUID becomes more frequent.",
        "The longest part found in a rollout, in the mean, never rises by a tenth of the UUID, and "
        "the whole never occurs; and Adam has learned it.",
        texts.uuid_only_adam,
    ),
    *_table_1_claims(),
    Claim(
        "table-1-sgd",
        "section 4.4, appendix C, table 1",
        "SGD's text lowers the perplexity of both models though it is not in the language.",
        "Fewer than half of its rollouts are in the language at the end; its perplexity over the "
        "lowest of before, replay and untuned is below 1 for both models and all languages.",
        downstream.sgd_helps_without_language,
    ),
    Claim(
        "table-1-sgd-with-adam",
        "section 1, appendix C, table 1",
        "Text of SGD's generator does less than that of Adam's, even where Adam trains on it.",
        "In Table 1 every model is trained with Adam: perplexity of SGD's text over that of Adam's "
        "is above 1 for both models and all languages.",
        downstream.sgd_with_adam,
    ),
    Claim(
        "table-1-untuned",
        "appendix C, table 1",
        "Text of the untuned generator or replay text does not help the model that the generator "
        "was made for.",
        "Neither lowers the instruct model's perplexity by a tenth, in any language.",
        downstream.untuned_does_not_help,
    ),
    Claim(
        "table-1-sft",
        "appendix C, table 1",
        "Fine-tuning on the benchmark's train split stays below synthetic text.",
        "Its perplexity over that of Adam's text is below 1 for both models and all languages.",
        downstream.sft_is_lower,
    ),
    Claim(
        "transfer-to-base",
        "appendix C, table 1",
        "The text transfers to a base model for which the generator was not optimized.",
        "On the base model, perplexity of Adam's text over the lowest of before, replay, untuned.",
        functools.partial(downstream.transfers, target="llama-base"),
    ),
    Claim(
        "transfer-to-pytorch",
        "section 4.4, appendix C, table 1",
        "It transfers from one step in JAX to continued pre-training in PyTorch, and from the "
        "model's loss to lm-eval's perplexity.",
        "On the instruct model, perplexity of Adam's text over the lowest of before, replay, "
        "untuned.",
        functools.partial(downstream.transfers, target="llama-instruct"),
    ),
    Claim(
        "naive-fails",
        "sections 4.2 to 4.5, figures 2, 4 and 5",
        "Rewarding with the metric itself (naive) fails where metagradients succeed.",
        "In each experiment the naive reward gains less than half of what Adam's metagradients do.",
        texts.naive_fails,
    ),
    Claim(
        "table-1-naive",
        "appendix C, table 1",
        "Text of the naive generator hardly helps on the benchmark.",
        "It lowers the log perplexity by less than half of what Adam's text does.",
        downstream.naive_hardly_helps,
    ),
)
"""Every claim of the paper that results can support, in the order of its sections."""
