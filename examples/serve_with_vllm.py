"""A fine-tuned checkpoint behind a plain vLLM server, and a client that prints boxes. The client needs no torch: `pip install coordexp`.

    vllm serve output/stage1/final --served-model-name detector --limit-mm-per-prompt '{"image": 1, "video": 0}' --generation-config vllm
    python examples/serve_with_vllm.py photo.jpg --url http://localhost:8000

The prompt is part of what the model learned: it must be that of the training (`prompt` in the `resolved_config.json` of an inference run). Two requests keep
the answer whole: `skip_special_tokens: false` (coordinates are special tokens) and `temperature: 0`. The server resizes the picture by itself; coordinates are
relative to it. For exact tokens, scores, sub-bin boxes and constrained answers use `coordexp infer` with the backend vllm.
"""

from __future__ import annotations

import argparse
import base64
import json
import urllib.request
from pathlib import Path

from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.salvage import salvage_text
from coordexp.data.images import read_image_size
from coordexp.geometry.bins import bins_to_pixels


def ask(url: str, model: str, picture: Path, *, max_tokens: int) -> str:
    """What the model writes about a picture."""
    prompt = build_prompt(PromptSpec())
    image = {"type": "image_url", "image_url": {"url": f"data:image;base64,{base64.b64encode(picture.read_bytes()).decode()}"}}
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": [image, {"type": "text", "text": prompt.user}]}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens, "skip_special_tokens": False}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:  # the address is your own  # nosec B310
        return json.load(answer)["choices"][0]["message"]["content"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--model", default="detector")
    parser.add_argument("--max-tokens", type=int, default=1024)
    options = parser.parse_args()
    for picture in options.pictures:
        width, height = read_image_size(picture)
        for item in salvage_text(ask(options.url, options.model, picture, max_tokens=options.max_tokens)).objects:
            box = [round(value, 1) for value in bins_to_pixels(item.values, width=width, height=height)]
            print(f"{picture}\t{item.desc}\t{box}")


if __name__ == "__main__":
    main()
