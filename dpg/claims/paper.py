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
            f"According to the judge, more than half of the validation rollouts are {name} at the "
            "end, and less than a tenth before training.",
            functools.partial(texts.learns_language, code=code),
        ),
        Claim(
            f"entropy-{code}",
            "section 4.4, figure 4 (bottom)",
            f"It learns {name} while the entropy of its rephrases is maintained.",
            f"The generator learns {name}, and loses less than one bit of bigram entropy H. So "
            "2^H, the effective number of bigrams in its text, stays above half of its first "
            "value.",
            functools.partial(texts.keeps_entropy, code=code),
        ),
        Claim(
            f"baselines-{code}",
            "section 4.4, figure 4",
            f"No baseline learns {name} without a collapse of its entropy.",
            "The baselines are SGD, naive, embedding, fastText and Levenshtein. At the end of each "
            f"run, at most half of the rollouts are {name}, or at least one bit of bigram entropy "
            f"is lost. Adam's generator has learned {name}.",
            functools.partial(texts.baselines_fail, code=code),
        ),
    ]


def _table_1_claims() -> list[Claim]:
    return [
        Claim(
            f"table-1-adam-{target.removeprefix('llama-')}",
            "appendix C, table 1",
            f"The text of Adam's generator gives {words} the lowest perplexity of all rows, except "
            "fine-tuning on the benchmark.",
            "The perplexity of Adam's row, divided by the lowest of the other rows, is below 1 for "
            "each of the four languages.",
            functools.partial(downstream.adam_leads, target=target),
        )
        for target, words in (
            ("llama-instruct", "the instruct model"),
            ("llama-base", "the base model"),
        )
    ]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "qr-scans",
        "figure 1, section 4.1",
        "Training on the generator's text puts a QR code that scans into the target's LM head.",
        "The image is the sign of the LM head's change. A QR reader decodes its payload at the "
        "last validation of every seed, and not before training.",
        weights.qr_scans,
    ),
    Claim(
        "theorem-sgd",
        "section 3.2, theorem 3.1",
        "With SGD, the policy gradient of the metagradient reward differs from the ideal one by "
        "O(eta^(1/4) B^(-1/2) + sqrt(eta T)).",
        "Measured on a policy that is small enough to enumerate. At every setting the error is "
        "below half of the ideal gradient's norm, and the cosine of the two gradients is above "
        "0.9. The exponent of the error is at least 1/4 for small eta, at most 0 for large B, and "
        "at most 1/2 for large T.",
        functools.partial(theorem.theorem, optimizer="sgd"),
    ),
    Claim(
        "theorem-adam",
        "section 3.2, conjecture",
        "Using Adam, like SGD, would result in a reasonable bound, but still with some error.",
        "The same check on the same policy, with Adam as in Table 8 (eps_root = 1e-9). Gradients "
        "of this policy's target are about 1.",
        functools.partial(theorem.theorem, optimizer="adam"),
    ),
    Claim(
        "theorem-adam-smooth",
        "section 3.2, conjecture",
        "The same, for an Adam that is smooth in the gradient.",
        "The same check with eps_root = 1, about the size of a squared gradient.",
        functools.partial(theorem.theorem, optimizer="adam-smooth"),
    ),
    Claim(
        "sgd-dot-product",
        "section 1",
        "With SGD and a single step in A, the metagradient is the dot product of the target's and "
        "the example's gradients. With Adam there are further terms.",
        "On a small network in float64, the learner's metagradients are compared with -rate / B "
        "times the dot products of gradients from jax.grad. With SGD they are equal to 1e-10. With "
        "Adam they point in another direction (cosine below 0.99).",
        theorem.dot_product,
    ),
    Claim(
        "sixseven-exact",
        "section 4.2, figure 3",
        "With Adam at the longest T the generator's text embeds the 67 perfectly.",
        "Of the runs, and their redo with other prompts if the study has one, at least half end "
        "with all pixels right. (In the paper the redo did, and the first run did not.)",
        weights.sixseven_exact,
    ),
    Claim(
        "sixseven-only-adam-long",
        "section 4.2, figure 3",
        "Only Adam with the longest T in A achieves a perfect 67.",
        "Adam at the longest T achieves it (see sixseven-exact). With every seed, Adam at the "
        "shorter T, and SGD and naive at every T, end with at least one wrong pixel.",
        weights.sixseven_only,
    ),
    Claim(
        "sixseven-several-steps-best",
        "section 4.2, figure 2 (left)",
        "Using Adam in A with several training steps does best.",
        "Share of pixels right at the end: the lower of Adam's two longer T, minus each other "
        "variant, is above 0.",
        weights.several_steps_best,
    ),
    Claim(
        "more-steps-help",
        "section 4.2, figure 2 (left)",
        "More steps in A help the 67 (the paper: a weak correlation).",
        "Share of pixels right at the end: Adam at the longest T minus Adam at T = 1 is above 0.",
        weights.more_steps,
    ),
    Claim(
        "more-steps-stable",
        "section 4.2, figure 2 (left)",
        "Validation is more stable with more steps in A.",
        "The curve of right pixels moves up and down. Its path beyond the net change, per "
        "validation, is longer at T = 1 than at the longest T. Only validations with more than one "
        "wrong pixel count.",
        weights.more_steps_stable,
    ),
    Claim(
        "adam-beats-sgd",
        "sections 1 and 4.2, figure 2 (left)",
        "The optimizer in A matters: Adam's metagradients do better than SGD's, also with one "
        "step.",
        "Share of pixels right at the end: Adam minus SGD is above 0 at each of the three T.",
        weights.adam_beats_sgd,
    ),
    Claim(
        "cross-group-batching",
        "section 4.2, figure 2 (left), figure 7",
        "Cross-group batching costs next to nothing.",
        "Share of pixels right at the end: the run without it minus the run with it is below 0.05 "
        "(two pixels of 42). The run with it gained more than 0.1.",
        weights.batching_is_free,
    ),
    Claim(
        "coherent-rephrases",
        "section 4.2, table 2",
        "The generator's text still reads as a coherent rephrase while it encodes the 67.",
        "Known pairs are pairs of neighbouring words that occur in the scale's articles. Their "
        "share in the text is at least three quarters of their share in the untuned generator's "
        "text, which must be at least half.",
        texts.coherent,
    ),
    Claim(
        "norm-falls",
        "section 4.3, figure 2 (right)",
        "With Adam the generator's text lowers the l2 norm of the target's LM head.",
        "At the longest T, training on the final generator's text lowers the norm, and lowers it "
        "more than training on the untuned generator's text.",
        weights.norm_falls,
    ),
    Claim(
        "norm-only-adam",
        "section 4.3, figure 2 (right)",
        "Adam is the only approach that makes reasonable progress on the norm.",
        "Progress is how much lower the norm is after training on the final text than after "
        "training on the untuned text. SGD and naive make less than half of the progress of Adam "
        "at the longest T, at every T.",
        weights.norm_only_adam,
    ),
    Claim(
        "norm-plateau",
        "section 4.3, figure 2 (right)",
        "With a single step in A the performance on the norm plateaus early.",
        "With Adam, the second half of the run makes a smaller share of the progress at T = 1 than "
        "at the longest T, and the norm is higher at the end.",
        weights.norm_plateau,
    ),
    Claim(
        "norm-incoherent",
        "section 4.3, table 3",
        "The text of the norm's generator is no longer coherent by the last step.",
        "The share of known pairs (see coherent-rephrases) is less than three quarters of the "
        "untuned generator's.",
        texts.norm_incoherent,
    ),
    *(claim for code in TARGET_CODES for claim in _language_claims(code)),
    Claim(
        "style-first",
        "appendix D, table 4",
        "The generator learns the benchmark's style, stories, before it switches to Spanish.",
        "A word-count classifier learns stories and articles from the scale's English texts. It "
        "must be right on at least 90 % of unseen pieces. It reads the rollouts that are judged "
        "English. Half of these are stories at an earlier validation than half of all rollouts "
        "are Spanish.",
        texts.style_first,
    ),
    Claim(
        "uuid-exact",
        "section 4.5, figure 5",
        "With Adam the generator learns to write the UUID, which no prompt contains.",
        "More than half of the validation rollouts contain the whole UUID at the end, and none "
        "before training.",
        texts.uuid_learned,
    ),
    Claim(
        "uuid-only-adam",
        "section 4.5, figure 5",
        "With SGD or naive rewards no component of the UUID becomes more frequent.",
        "The longest part of the UUID in a rollout, as a mean over rollouts, never grows by a "
        "tenth of the UUID. The whole UUID never occurs. With Adam the generator has learned it.",
        texts.uuid_only_adam,
    ),
    *_table_1_claims(),
    Claim(
        "table-1-sgd",
        "section 4.4, appendix C, table 1",
        "SGD's text lowers the perplexity of both models, though it is not in the language.",
        "At the end fewer than half of its rollouts are in the language. The perplexity of SGD's "
        "row, divided by the lowest of the rows before, replay and untuned, is below 1 for both "
        "models and all languages.",
        downstream.sgd_helps_without_language,
    ),
    Claim(
        "table-1-sgd-with-adam",
        "section 1, appendix C, table 1",
        "Text of SGD's generator helps less than text of Adam's, even if Adam trains the model on "
        "it.",
        "In Table 1 every model is trained with Adam. The perplexity of SGD's row, divided by "
        "that of Adam's row, is above 1 for both models and all languages.",
        downstream.sgd_with_adam,
    ),
    Claim(
        "table-1-untuned",
        "appendix C, table 1",
        "Text of the untuned generator and replay text do not help the instruct model.",
        "Neither lowers the instruct model's perplexity by a tenth, in any language.",
        downstream.untuned_does_not_help,
    ),
    Claim(
        "table-1-sft",
        "appendix C, table 1",
        "Fine-tuning on the benchmark's train split gives a lower perplexity than synthetic text.",
        "The perplexity of the fine-tuned row, divided by that of Adam's row, is below 1 for both "
        "models and all languages.",
        downstream.sft_is_lower,
    ),
    Claim(
        "transfer-to-base",
        "appendix C, table 1",
        "The text transfers to a base model for which the generator was not optimized.",
        "On the base model, the perplexity of Adam's row, divided by the lowest of the rows "
        "before, replay and untuned, is below 1.",
        functools.partial(downstream.transfers, target="llama-base"),
    ),
    Claim(
        "transfer-to-pytorch",
        "section 4.4, appendix C, table 1",
        "The effect transfers from one step in JAX to continued pre-training in PyTorch, and from "
        "the model's loss to lm-eval's perplexity.",
        "On the instruct model, the perplexity of Adam's row, divided by the lowest of the rows "
        "before, replay and untuned, is below 1.",
        functools.partial(downstream.transfers, target="llama-instruct"),
    ),
    Claim(
        "naive-fails",
        "sections 4.2 to 4.5, figures 2, 4 and 5",
        "Rewarding with the metric itself (naive) fails where metagradients succeed.",
        "In each experiment the naive reward gains less than half of the gain of Adam's "
        "metagradients.",
        texts.naive_fails,
    ),
    Claim(
        "table-1-naive",
        "appendix C, table 1",
        "Text of the naive generator hardly helps on the benchmark.",
        "It lowers the log perplexity by less than half as much as Adam's text.",
        downstream.naive_hardly_helps,
    ),
)
"""Every claim of the paper that results can support, in the order of its sections."""
