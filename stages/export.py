"""Write the model for other programs: models/export, with a model card."""

from pathlib import Path

from llm.commands.origin import run_origin
from llm.interchange.export import export
from llm.interchange.gguf_file import lost_in_gguf
from llm.stage_inputs import StageInputs
from llm.tokenizer import load_tokenizer
from stages import run_stage


def main(inputs: StageInputs) -> None:
    params = inputs.params
    files = export(
        Path("models/final"), Path("models/export"), params.export, Path("reports"), "model", run_origin(Path())
    )
    if params.export.gguf and (lost := lost_in_gguf(load_tokenizer(Path("models/final")))):
        print(f"note: {lost}")
    for file in files:
        print(f"{file} ({file.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    run_stage(main)
