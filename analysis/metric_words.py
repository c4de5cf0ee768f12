"""The direction of a metric by the words in its name, for tables that declare none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

LOWER, HIGHER = "lower", "higher"

_LOWER: Final = """
    loss losses error errors err risk cost penalty regret gap drop degradation residual
    nll logloss bits bpb bpc bpd bpp nats perplexity ppl ce xent kl kld jsd divergence distance
    mse rmse rmsle mae mape smape epe lpips dists fid kid fvd fad cmmd rfid gfid sfid
    wasserstein emd chamfer wer cer ter brier ece eer fpr fnr std stderr sem variance
    latency memory gpu cpu ram vram disk toxicity
""".split()
_HIGHER: Final = """
    acc accuracy accuracies precision recall sensitivity specificity tpr tnr purity nmi ari
    psnr ssim msssim similarity fidelity coverage auc auroc auprc ap map iou miou dice ndcg mrr hits
    bleu rouge rougel rougelsum meteor chrf cider spice kappa mcc correlation pearson spearman
    kendall reward rewards likelihood loglikelihood elbo winrate elo agreement fscore
    clipscore pickscore imagereward geneval reduction gain improvement speedup saving savings
    utilization utilisation throughput
""".split()
# Words that yield to those above: an FID score is a distance, an error of the top 5 an error.
_WEAK: Final = """
    score scores usage sim cosine aesthetic aesthetics preference pref success util probe hps hpsv
""".split()
_BENCHMARKS: Final = """
    mmlu mmmu gsm8k hellaswag arc piqa siqa winogrande humaneval mbpp boolq truthfulqa bbh
    openbookqa obqa copa glue superglue commonsenseqa csqa triviaqa
""".split()
# Several tokens that mean something together; "#" is a number, or the letter k.
_PHRASES: Final[dict[tuple[str, ...], tuple[str, str]]] = {
    ("top", "#"): ("modifier", HIGHER),
    ("f", "#"): ("strong", HIGHER),
    ("r", "2"): ("strong", HIGHER),
    ("r", "squared"): ("strong", HIGHER),
    ("r", "@", "#"): ("strong", HIGHER),
    ("p", "@", "#"): ("strong", HIGHER),
    ("pass", "@", "#"): ("strong", HIGHER),
    ("pass", "#"): ("strong", HIGHER),
    ("ms", "ssim"): ("strong", HIGHER),
    ("inception", "score"): ("strong", HIGHER),
    ("exact", "match"): ("strong", HIGHER),
    ("explained", "variance"): ("strong", HIGHER),
    ("average", "precision"): ("strong", HIGHER),
    ("cross", "entropy"): ("strong", LOWER),
    ("crossentropy",): ("strong", LOWER),
    ("miss", "rate"): ("strong", LOWER),
    ("false", "positive"): ("strong", LOWER),
    ("false", "negative"): ("strong", LOWER),
    ("true", "positive"): ("strong", HIGHER),
    ("true", "negative"): ("strong", HIGHER),
    ("negative", "log", "likelihood"): ("strong", LOWER),
    ("neg", "log", "likelihood"): ("strong", LOWER),
    **{(word, "rate"): ("strong", HIGHER) for word in ("win", "success", "hit", "pass")},
    **{
        (of, what): ("strong", HIGHER)
        for of in ("codebook", "code", "codes")
        for what in ("perplexity", "entropy", "usage")
    },
}  # fmt: skip
_TABLE: Final[dict[tuple[str, ...], tuple[str, str]]] = {
    **{(word,): ("modifier", HIGHER) for word in _BENCHMARKS},
    **{(word,): ("weak", HIGHER) for word in _WEAK},
    **{(word,): ("strong", LOWER) for word in _LOWER},
    **{(word,): ("strong", HIGHER) for word in _HIGHER},
    **_PHRASES,
}
_LONGEST: Final = max(len(phrase) for phrase in _TABLE)
# Capitals alone tell these from English words.
_CAPITALS: Final = ("IS", "EM")
_SPLITS: Final = ("train", "training", "val", "valid", "validation", "test", "eval", "dev")
_STATISTICS: Final = ("mean", "avg", "median", "ema", "std")
# What follows measures the base, not the quantity: loss per token, error at 5%.
_CUTS: Final = ("per", "vs", "versus", "over", "at", "given", "of", "under")
_FLIPS: Final = ("neg", "negative", "minus", "inverse", "inv")
_COMPLEMENT: Final = re.compile(
    r"^\s*(?:(?:1(?:\.0)?|100|one)\s*)?(?:[-\u2212]|minus[ _])\s*(?=\S)", re.I
)
_CHUNK: Final = re.compile(r"[0-9A-Za-z]+|@")
_CAMEL: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|@")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Meaning of the words of a name."""

    better: str
    word: str  # the word that decides
    against: str = ""  # a word of the other direction, if there is one


@dataclass(frozen=True, kw_only=True, slots=True)
class _Word:
    text: str
    strength: str  # strong, weak, or modifier
    better: str
    before_flip: str = ""  # the direction that a "neg" or "1 -" turned round


@cache
def read_words(name: str) -> Reading | None:
    """Return what the words of a column's name say of its direction; None if they say nothing.

    Of several words of one strength the last decides, as in English: an accuracy loss is a loss.
    """
    rest, flip = name, ""
    complement = _COMPLEMENT.match(name)
    if complement is not None:
        after = _words(_tokens(name[complement.end() :]), first_only=True)
        if after:
            rest, flip = name[complement.end() :], complement.group().strip()
    tokens = _tokens(rest)
    cut = next((at for at, token in enumerate(tokens) if token.lower() in _CUTS), len(tokens))
    words = _words(tokens[:cut], flip=flip) or _words(tokens[cut + 1 :], flip=flip)
    for strength in ("strong", "weak", "modifier"):
        own = [word for word in words if word.strength == strength]
        if own:
            break
    else:
        return None
    last = own[-1]
    against = next(
        (
            word.text
            for word in words
            if word.better != last.better and "modifier" not in (word.strength, last.strength)
        ),
        "",
    )
    if last.before_flip and not against:
        against = last.before_flip
    return Reading(better=last.better, word=last.text, against=against)


def _words(tokens: list[str], *, flip: str = "", first_only: bool = False) -> list[_Word]:
    """Return the known words and phrases of some tokens; `flip`: what turns them round from the
    start; `first_only`: none unless they begin with one.
    """
    found: list[_Word] = []
    at, turned, sign = 0, bool(flip), flip
    while at < len(tokens):
        known = _phrase(tokens, at)
        if known is not None:
            size, strength, better = known
            text = " ".join(tokens[at : at + size])
            if turned:
                better = LOWER if better == HIGHER else HIGHER
            found.append(
                _Word(
                    text=text,
                    strength=strength,
                    better=better,
                    before_flip=f"{sign} {text}" if turned else "",
                )
            )
            at += size
            continue
        if first_only and not found and tokens[at].lower() not in _SPLITS:
            return []
        if tokens[at].lower() in _FLIPS:
            turned, sign = not turned, tokens[at]
        at += 1
    return found


def _phrase(tokens: list[str], at: int) -> tuple[int, str, str] | None:
    """Return (tokens, strength, direction) of the longest known phrase that begins at `at`."""
    for size in range(min(_LONGEST, len(tokens) - at), 0, -1):
        part = tuple(token.lower() for token in tokens[at : at + size])
        loose = tuple("#" if token.isdigit() or token == "k" else token for token in part)
        known = _TABLE.get(part) or _TABLE.get((part[0], *loose[1:]))
        if known is not None:
            return (size, *known)
    if _is_acronym(tokens, at):
        return (1, "strong", HIGHER)
    return None


def _is_acronym(tokens: list[str], at: int) -> bool:
    """Tell if the token is IS (Inception score) or EM (exact match) and not a part of a name.

    In capitals it is, unless a word in capitals follows (IS_PRIMARY). In small letters it is the
    end of the name (val_is).
    """
    token, after = tokens[at], [one for one in tokens[at + 1 :] if one.lower() not in _STATISTICS]
    if token in _CAPITALS:
        return not (after and len(after[0]) > 1 and after[0].isalpha() and after[0].isupper())
    return token in ("is", "em") and not after


def _tokens(name: str) -> list[str]:
    """Return the words and numbers of a name: val_psnr, testAcc, MMLU-5shot, PSNR(dB), acc@1."""
    found: list[str] = []
    for chunk in _CHUNK.findall(name):
        chunk = chunk.removesuffix("dB") or chunk
        if _known(chunk) or chunk in _CAPITALS:
            found.append(chunk)
            continue
        letters = chunk.rstrip("0123456789")
        if _known(letters):
            found += [letters, chunk[len(letters) :]]
            continue
        prefix = next(
            (p for p in _SPLITS if chunk.lower().startswith(p) and _known(chunk[len(p) :])), ""
        )
        if prefix:
            found += [chunk[: len(prefix)], chunk[len(prefix) :]]
        else:
            found += _CAMEL.findall(chunk)
    return [_singular(token) for token in found if token]


def _known(token: str) -> bool:
    return (token.lower(),) in _TABLE or (_singular(token).lower(),) in _TABLE


def _singular(token: str) -> str:
    low = token.lower()
    plural = (low,) not in _TABLE and low.endswith("s") and (low[:-1],) in _TABLE
    return token[:-1] if plural else token
