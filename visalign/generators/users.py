"""Personalised preference: what a network is told of a user, beside its text (PPD, Dang et al. 2025, arXiv 2501.06655).

    Z = softmax(Q K^T / sqrt d) V + softmax(Q K'^T / sqrt d) V',      K' = u W_k',  V' = u W_v'

u [N, d_u]: N tokens of a user, one for each pair of theirs (rewards/users.py). Q: the queries of the attention
that reads the text, as it has them before positions are put in. The second term is added to what that attention gives
out, before its output layer; so its processor, kernel and checkpointing stay as they are. It stands beside every text
cross-attention (U-Nets, Wan, LTX), and in joint attentions (SD3, FLUX's blocks of two streams) on the latents' stream.
Only W_k' and W_v' learn. W_v' begins at 0, and u = 0 has K' = V' = 0: both give the base to the bit.

Differs from the paper in: W_v' = 0 at the start; queries of networks that normalise them are normalised. It trains
Stable Cascade's stage C, with hidden states of a vision-language model as u.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.observe.branches import branches_told
from visalign.storage.files import write_atomically
from visalign.storage.open_clip_models import embedding_width
from visalign.storage.weights import read_json, read_tensors, some, write_tensors

USER = "user tokens"
"""In a conditioning, beside the network's arguments: who the samples are for, [B, N, d_u]; a row of 0 is nobody."""

USER_FILES = "user_adapter.safetensors", "user_adapter.json"


class UserAttention(nn.Module):
    """The second term of one attention, to be added to what it gives its output layer.

    width: of a user's tokens. queries, values: numbers of all heads together.
    """

    def __init__(self, width: int, heads: int, queries: int, values: int, device: torch.device):
        super().__init__()
        self.heads = heads
        self.to_k = nn.Linear(width, queries, bias=False, device=device)
        self.to_v = nn.Linear(width, values, bias=False, device=device)
        nn.init.zeros_(self.to_v.weight)

    def forward(self, query: Tensor, user: Tensor) -> Tensor:
        """[B, T, values] of queries [B, T, heads x d] and the tokens of each row's user [B, N, width]."""
        query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(-2, -3).to(query.dtype)
                             for each in (query, self.to_k(user), self.to_v(user)))
        return F.scaled_dot_product_attention(query, key, value).transpose(-2, -3).flatten(-2)


def reads_text(name: str, module: nn.Module) -> bool:
    """Whether a module is an attention through which latents see the text: across, or jointly with it."""
    if getattr(module, "to_q", None) is None or getattr(module, "to_out", None) is None or \
            not isinstance(getattr(module, "heads", None), int):
        return False
    across = getattr(module, "is_cross_attention", name.endswith("attn2"))
    return bool(across) or getattr(module, "add_k_proj", None) is not None


class UserTerm:
    """The second term of every attention of a network that reads the text.

    tokens: of the users that the pass at work is for [B, N, width]; None: for nobody, and nothing is added. strength:
    by which the term is multiplied. Raises UserError, starting with `who`, for a network without such an attention.
    """

    def __init__(self, network: nn.Module, width: int, who: str):
        self.width, self.strength = width, 1.0
        self.tokens: Tensor | None = None
        self._restore: list[Callable[[], None]] = []
        self.added: dict[str, UserAttention] = {}
        for name, attention in [each for each in network.named_modules() if reads_text(*each)]:
            self.added[f"{name}.user"] = self._beside(attention)
        if not self.added:
            raise UserError(f"model.tuning user: {who} has no attention that reads the text apart from the latents or "
                            "in a stream of its own, beside which a user could be told; use model.tuning=lora")

    def _beside(self, attention: nn.Module) -> UserAttention:
        out = attention.to_out[0] if isinstance(attention.to_out, nn.ModuleList | nn.Sequential) else attention.to_out
        term = UserAttention(self.width, attention.heads, attention.to_q.out_features, out.in_features,
                             next(attention.to_q.parameters()).device)
        attention.add_module("user", term)
        queries: list[Tensor] = []

        def keep(module: nn.Module, arguments: tuple, output: Tensor) -> None:
            if self.tokens is not None:
                queries[:] = [output]

        def add(module: nn.Module, arguments: tuple) -> tuple | None:
            if self.tokens is None:
                return None
            [query], [given, *others] = queries, arguments
            queries.clear()
            if query.shape[:-1] != given.shape[:-1]:
                raise UserError(f"model.tuning user: {type(attention).__name__} of this model has "
                                f"{given.shape[1:-1].numel()} tokens in its output and {query.shape[1:-1].numel()} in "
                                "its queries, so the user's part cannot be added; use model.tuning=lora")
            term_of_all = term(normalised(attention, query), self._like(query))
            return (given + self.strength * term_of_all.to(given.dtype), *others)

        handles = attention.to_q.register_forward_hook(keep), out.register_forward_pre_hook(add)

        def restore() -> None:
            for handle in handles:
                handle.remove()
            del attention.user

        self._restore.append(restore)
        return term

    def _like(self, query: Tensor) -> Tensor:
        """The tokens of each row of the queries; of networks that take a video's frames as rows, several of a sample.
        """
        rows, tokens = len(query), self.tokens
        if rows % len(tokens):
            raise UserError(f"model.tuning user: an attention of this model takes {rows} rows for {len(tokens)} "
                            "samples, so it is not known whose they are; use model.tuning=lora")
        return tokens.to(query.device).repeat_interleave(rows // len(tokens), 0)

    def _set(self, tokens: Tensor | None) -> None:
        self.tokens = tokens if self.strength else None

    @contextlib.contextmanager
    def told(self, tokens: Tensor | None) -> Iterator[None]:
        """Within it passes are for these users [B, N, width], None for nobody."""
        before, self.tokens = self.tokens, tokens if self.strength else None
        try:
            yield
        finally:
            self.tokens = before

    def again(self) -> contextlib.AbstractContextManager[None]:
        """What a block is to be computed again in that computes now: for the same users."""
        return self.told(self.tokens)

    def sampling(self, networks: Iterable[nn.Module], tokens: Tensor,
                 wanted_place: int | None) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Within it a pipeline calls the networks for samples of these users [B, N, width]; the unconditional branch of
        guidance is nobody's. See `branches_told`."""
        def tell(unconditional: Tensor | float) -> None:
            if isinstance(unconditional, Tensor):
                wanted = (1 - unconditional).view(-1, 1, 1).to(tokens)
                self._set(torch.cat([tokens, tokens]) * wanted)
            else:
                self._set(None if unconditional else tokens)

        return self._ending(branches_told(networks, len(tokens), wanted_place, tell, "user"))

    @contextlib.contextmanager
    def _ending(self, branches: contextlib.AbstractContextManager) -> Iterator[Callable[[], None]]:
        with self.told(None), branches as after_step:
            yield after_step

    def remove(self) -> None:
        """Leave the network as it was."""
        for restore in self._restore:
            restore()
        self._restore.clear()

    def weights(self) -> dict[str, nn.Parameter]:
        """W_k' and W_v' by the names of their layers."""
        return {f"{name}.{layer}": weight for name, term in self.added.items()
                for layer, weight in term.named_parameters()}


def normalised(attention: nn.Module, query: Tensor) -> Tensor:
    """Queries [B, T, heads x d] as the attention takes them before positions are put in."""
    norm = getattr(attention, "norm_q", None)
    if norm is None:
        return query
    size = getattr(norm, "normalized_shape", getattr(norm, "dim", None))
    if isinstance(size, tuple) and size[-1] == query.shape[-1]:
        return norm(query)
    return norm(query.unflatten(-1, (attention.heads, -1))).flatten(-2)


def user_width(features: str, modality: str) -> int:
    """Of a user's tokens made by an open_clip model: two embeddings, of a video each of three parts (rewards/users.py).

    Raises UserError where its configuration is neither here nor given by the hub.
    """
    return 2 * embedding_width(features, "model.user_features") * (3 if modality == "video" else 1)


def interpolated(one: Tensor, other: Tensor, share: float) -> Tensor:
    """The tokens [N, width] of a taste between two users': 0 is `one`, 1 the other. Raises ValueError where they have
    not as many tokens."""
    if one.shape != other.shape:
        raise ValueError(f"users of {len(one)} and of {len(other)} pairs cannot be mixed: give as many of each")
    return torch.lerp(one, other, share)


@dataclass(frozen=True)
class UserAdapter:
    """What an export says beside its weights. features: the open_clip model that makes tokens of a user's pairs.
    context: N, how many pairs a user was told by. width: of a token."""

    features: str
    context: int
    width: int


def find_user_adapter(path: Path) -> Path | None:
    """The folder of a user adapter, given as such or as the run that exported it; None for anything else."""
    path = Path(path).expanduser()
    return next((folder for folder in (path, path / "export") if (folder / USER_FILES[1]).is_file()), None)


def read_user_adapter(path: Path) -> UserAdapter:
    """Raises UserError where there is none, or it is not whole."""
    folder = find_user_adapter(path)
    if folder is None:
        raise UserError(f"user adapter {path}: has no {USER_FILES[1]}; give a run with model.tuning user, or its "
                        "export folder")
    file = folder / USER_FILES[1]
    said = read_json(file, f"user adapter {file}")
    try:
        found = UserAdapter(**said)
        if not (isinstance(found.features, str) and all(isinstance(each, int) and each > 0
                                                        for each in (found.context, found.width))):
            raise TypeError
    except TypeError:
        raise UserError(f"user adapter {file}: does not say features, context and width alone, a name and two whole "
                        "numbers") from None
    return found


def write_user_adapter(term: UserTerm, folder: Path, about: UserAdapter) -> list[Path]:
    """The weights and what they are for."""
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in term.weights().items()}
    write_tensors(folder / USER_FILES[0], weights, {"format": "pt"})
    write_atomically(folder / USER_FILES[1], (json.dumps(asdict(about), indent=1) + "\n").encode())
    return [folder / name for name in USER_FILES]


def put_user_weights(term: UserTerm, path: Path) -> None:
    """Take in an adapter's weights. Raises UserError unless every one of them fits."""
    file = find_user_adapter(path) / USER_FILES[0]
    given, own = read_tensors(file, f"user adapter {file}"), term.weights()
    wrong = sorted(given.keys() ^ own.keys()) or [name for name, weight in own.items()
                                                  if given[name].shape != weight.shape]
    if wrong:
        raise UserError(f"user adapter {file}: is not for this model, of which {some(wrong)} differ")
    with torch.no_grad():
        for name, weight in own.items():
            if not weight.is_meta:
                weight.copy_(given[name])
