"""Networks that are not slimtask's: made by a factory the user names, with weights from a file that can run no code."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import math
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.checkpoint import MOST_ELEMENTS, read_safetensors, refuse_non_finite
from slimtask.errors import InputError, nearest
from slimtask.files import check_regular

_HOLDERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def load_factory(path: str) -> Callable[[], nn.Module]:
    """Return the function without arguments that makes the network ``pkg.mod:factory`` or ``path/net.py:factory``.

    ``factory`` is a class, a function, or a network that stands ready (it is copied). The working directory, and the
    folder of a file, are on the import path. Raises InputError if the module or the name does not exist, or the import
    fails; the function returned raises it if the factory does not make a network.
    """
    module_name, colon, name = path.rpartition(":")
    if not colon or not module_name or not name:
        raise InputError(f"--model takes pkg.mod:factory or FILE.py:factory, such as mynet:MyNet, not '{path}'.")
    file, folder = None, Path.cwd()
    if module_name.endswith(".py") or os.sep in module_name:
        file = Path(module_name if module_name.endswith(".py") else f"{module_name}.py").expanduser().resolve()
        folder = file.parent
        if not file.is_file():
            raise InputError(f"--model '{path}': there is no file '{file}'; check the path.")
    with _importable(folder):
        module = _import(module_name, path) if file is None else _import_file(file, path)
    made = getattr(module, name, None)
    if made is None:
        names = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        raise InputError(f"'{module_name}' has no '{name}'{nearest(name, names)}")

    def factory() -> nn.Module:
        with _importable(folder):
            return _made(made, path)

    return factory


def load_weights_(model: nn.Module, path: Path | str) -> None:
    """Load the state dict in ``path`` (.safetensors, or a torch file without code) into ``model``, in place.

    The dict may lie under "state_dict", "model_state_dict" or "model"; the prefixes of DataParallel and torch.compile
    go. Raises InputError, before anything is loaded, for a missing, damaged or foreign file, NaN, and tensors that are
    missing, unknown or of another shape.
    """
    weights = _stripped(_read_weights(path))
    own = model.state_dict()
    unknown = [name for name in weights if name not in own]
    # statistics written before torch 0.4.1 lack the counter, which inference does not read
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    if missing or unknown:
        lists = [f"{what} {_first(names)}" for what, names in (("lack", missing), ("have unknown", unknown)) if names]
        raise InputError(
            f"the weights '{path}' do not fit the network: they {' and '.join(lists)}; give the factory that these "
            "weights were trained with."
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"the weights '{path}' do not fit the network: '{name}' is {list(tensor.shape)}, the network's is "
                f"{list(own[name].shape)}; give the factory that these weights were trained with."
            )
    refuse_non_finite(weights, f"the file '{path}'")
    model.load_state_dict(weights, strict=False)


def input_shapes(text: str, option: str = "--input") -> tuple[tuple[int, ...], ...]:
    """Return the shapes in ``1x3x224x224`` (several inputs: with commas between them), batch first, of ``option``."""
    shapes = []
    for word in text.split(","):
        sides = word.strip().lower().split("x")
        if not all(side.isascii() and side.isdecimal() and 0 < len(side) <= 7 and int(side) > 0 for side in sides):
            raise InputError(
                f"{option} takes the shape of the input, batch first, such as 1x3x224x224 (several: with commas), not "
                f"'{text}'."
            )
        shape = tuple(int(side) for side in sides)
        if len(shape) > 8 or math.prod(shape) > MOST_ELEMENTS:
            raise InputError(
                f"{option} {word.strip()}: such a tensor is too large ({MOST_ELEMENTS:,} elements at most)."
            )
        shapes.append(shape)
    return tuple(shapes)


def _import(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"--model '{path}': there is no module '{error.name}' in '{Path.cwd()}' or among the installed "
                "packages; check its name, or run the command in its folder."
            ) from None
        raise InputError(f"--model '{path}': importing '{name}' fails ({_words(error)}); mend the module.") from error


def _import_file(file: Path, path: str) -> Any:
    """Return the module in a file, imported once, under the name that others in its folder import it by if it is free.

    An installed module of that name stays what it is.
    """
    found = next((module for module in list(sys.modules.values()) if _file_of(module) == file), None)
    if found is not None:
        return found
    taken = file.stem in sys.modules or not file.stem.isidentifier()
    name = f"_slimtask_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}" if taken else file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"--model '{path}': importing '{file}' fails ({_words(error)}); mend the module.") from error
    return module


def _file_of(module: Any) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name) if isinstance(name, str) else None


def _made(made: Any, path: str) -> nn.Module:
    if isinstance(made, nn.Module):
        return copy.deepcopy(made)
    try:
        model = made()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"--model '{path}': calling it fails ({_words(error)}); it must make the network without arguments."
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {path} returns a {type(model).__name__}, not a torch.nn.Module; mend the factory.")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise InputError(f"--model '{path}': '{name}' has no shape yet; give its lazy layer its sizes.")
    try:
        return model.cpu().eval()
    except Exception as error:  # code of its own runs when a network is switched
        raise InputError(f"--model '{path}': its eval() fails ({_words(error)}); mend the network.") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    here = str(folder)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _read_weights(path: Path | str) -> dict[str, Tensor]:
    """Return the state dict in a file."""
    if check_regular(path, "the weights file") == 0:
        raise InputError(f"the weights '{path}' are an empty file; write or copy it again.")
    if Path(path).suffix == ".safetensors":
        return read_safetensors(path, "the weights")[0]
    content = _unpickled(path)
    for holder in _HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            f"the weights '{path}' hold a {type(content).__name__}, not a state dict; write them with "
            "torch.save(model.state_dict(), PATH)."
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"the weights '{path}' hold a {type(tensor).__name__} under '{name}' where a tensor is expected; write "
                "them with torch.save(model.state_dict(), PATH)."
            )
        kind = _unusual(tensor)
        if kind is not None:
            raise InputError(
                f"the weights '{path}' hold a {kind} tensor under '{name}'; save a dense one of the network's type."
            )
    return dict(content)


def _unusual(tensor: Tensor) -> str | None:
    """Return what keeps ``tensor`` from being weights with values of their own, None if nothing does."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return str(tensor.device.type)  # meta: a shape without values
    return None if tensor.dtype in (*_FLOATS, *_INTEGERS) else str(tensor.dtype).removeprefix("torch.")


def _unpickled(path: Path | str) -> Any:
    """Return what a torch file holds if it can be read without running code: no file can run code here."""
    _refuse_packed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles: what matters is whether they load
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise InputError(
                f"the weights '{path}' cannot be read without running code from the file; where you trust it, convert "
                "it once in Python: torch.save(torch.load(PATH, weights_only=False).state_dict(), 'weights.pt')."
            ) from None
        raise InputError(f"the weights '{path}' are no torch file; give a .safetensors or .pt state dict.") from None
    except Exception as error:  # whatever a damaged file makes of the unpickler
        if "TorchScript" in str(error):
            raise InputError(
                f"the weights '{path}' are a TorchScript archive, which is code; where you trust it, convert it "
                "once in Python: torch.save(torch.jit.load(PATH).state_dict(), 'weights.pt')."
            ) from None
        raise InputError(
            f"the weights '{path}' are not a whole torch file ({_words(error)}); write or copy the file again."
        ) from None


def _refuse_packed(path: Path | str) -> None:
    """Raise InputError for an archive whose parts take more space than it has itself: torch.save packs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # not an archive, as before torch 1.6, or not a whole one, which torch says
    if total > Path(path).stat().st_size:
        raise InputError(f"the weights '{path}' are a packed archive, which torch.save does not write; unpack them.")


def _stripped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without prefixes that wrappers put before every name."""
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if weights and all(name.startswith(prefix) for name in weights):
                weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _first(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _words(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first.partition('. ')[0]}".removesuffix(": ").rstrip(".")
