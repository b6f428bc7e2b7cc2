"""Tiny random captioners of transformers, saved as the hub serves them: with tokenizer and pixel statistics."""

import json
from pathlib import Path
from typing import Any

import torch

from src.data.vocabulary import plain_text

SIZE, PATCH = 32, 8
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
_VISION = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
           "image_size": SIZE, "patch_size": PATCH}  # fmt: skip
_TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 48}  # fmt: skip
TEXTS = ["the quiet harbour at dusk is pleasingly bright", "a dark and blurred photo of two dogs that aren't sharp"]


def tiny_captioner(name: str, folder: Path, texts: list[str] = TEXTS) -> Path:
    """Save one for decoder.name=`name` in the folder, whose tokenizer knows the `texts`. blip2_t5: blip2 with T5."""
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizers = {"blip2": _byte_level, "vit_gpt2": _byte_level, "blip2_t5": _unigrams}
    tokenizer = tokenizers.get(name, _word_pieces)(texts)
    made = {"blip": _blip, "blip2": _blip2, "blip2_t5": _blip2_t5, "git": _git, "vit_gpt2": _vit_gpt2}
    model = made[name](tokenizer)
    for parameter in model.parameters():  # far from their initial values, so that attention is not nearly uniform
        parameter.data += (0.15 if name == "git" else 0.2) * torch.randn_like(parameter)
    _make_lively(name, model)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    described = {"image_mean": MEAN, "image_std": STD, "size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return folder


def _make_lively(name: str, model: Any) -> None:
    """Make END likely, so that captions end by themselves, and let the photo count."""
    if name == "vit_gpt2":  # its output layer has no bias
        model.decoder.transformer.ln_f.bias.data += 0.5
        model.decoder.lm_head.weight.data[0] += 0.2
        return
    if name == "blip2_t5":
        text, layer = model.language_model, model.language_model.lm_head
        layer.weight.data *= 0.2  # so far from 0 logits would be rounded by more than the tests allow
        layer.weight.data[1] = 1.3 * layer.weight.data[29]  # the token that captions would repeat
        for block in text.decoder.block:
            block.layer[1].EncDecAttention.q.weight.data *= 4
            block.layer[1].EncDecAttention.v.weight.data *= 4
        model.language_projection.weight.data *= 3
        model.query_tokens.data.normal_()
        return
    if name == "blip2":
        model.language_model.model.decoder.final_layer_norm.bias.data += 0.5
        model.language_model.lm_head.weight.data[2] += 0.4
        model.query_tokens.data.normal_()
        return
    layer = model.text_decoder.cls.predictions.decoder if name == "blip" else model.output
    layer.bias.data[3] += 1.5
    if name == "git":
        model.git.visual_projection.visual_projection[1].weight.data *= 8
        for each in model.git.encoder.layer:
            each.attention.self.value.weight.data *= 8


def whole_model(name: str, folder: Path) -> Any:
    """The model as transformers itself loads it."""
    import transformers

    kind = {
        "blip": "BlipForConditionalGeneration",
        "blip2": "Blip2ForConditionalGeneration",
        "blip2_t5": "Blip2ForConditionalGeneration",
        "git": "GitForCausalLM",
        "vit_gpt2": "VisionEncoderDecoderModel",
    }[name]
    return getattr(transformers, kind).from_pretrained(folder).eval()


def _word_pieces(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = sorted({word for text in texts for word in plain_text(text).replace("'", " ' ").split()})
    letters = sorted({letter for word in words for letter in word} | set("'.35"))
    # words of more than five letters come in two pieces
    pieces = [word[:5] for word in words] + [f"##{word[5:]}" for word in words if len(word) > 5]
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*pieces, *letters, *(f"##{x}" for x in letters)])]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"])
    return tokenizer


def _byte_level(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted({letter for text in texts for letter in plain_text(text)} | {"Ġ"})
    special = ["<|endoftext|>", "<pad>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(vocab_size=94, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(map(plain_text, texts), trainer)
    return tokenizer


def _unigrams(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = sorted({word for text in texts for word in plain_text(text).split()})
    pieces = [part for word in words for part in (f"▁{word[:5]}", word[5:]) if part]
    letters = ["▁", *sorted({letter for word in words for letter in word})]
    known = dict.fromkeys([*pieces, *letters], -2.0) | dict.fromkeys(letters, -9.0)
    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>", "<image>")]
    tokenizer = Tokenizer(models.Unigram([*special, *known.items()], unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens([name for name, _ in special])
    return tokenizer


def _blip(tokenizer: Any) -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipVisionConfig

    special = {"pad_token_id": 0, "bos_token_id": tokenizer.token_to_id("[DEC]"), "eos_token_id": 3, "sep_token_id": 3}
    text = {**_TEXT, "vocab_size": tokenizer.get_vocab_size(), "encoder_hidden_size": 24, "is_decoder": True, **special}
    vision, text = BlipVisionConfig(**_VISION).to_dict(), BlipTextConfig(**text).to_dict()
    return BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))


def _blip2(tokenizer: Any) -> Any:
    from transformers import OPTConfig

    opt = OPTConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=16, ffn_dim=24, num_hidden_layers=2,
                     num_attention_heads=4, max_position_embeddings=56, word_embed_proj_dim=16, pad_token_id=1,
                    bos_token_id=0, eos_token_id=2)  # fmt: skip
    return _with_queries(opt)


def _blip2_t5(tokenizer: Any) -> Any:
    from transformers import T5Config

    return _with_queries(T5Config(vocab_size=tokenizer.get_vocab_size(), d_model=16, d_kv=6, d_ff=24, num_layers=2,
                                  num_heads=4, feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
                                  relative_attention_max_distance=12, pad_token_id=0, decoder_start_token_id=0,
                                  eos_token_id=1, bos_token_id=1, tie_word_embeddings=False))  # fmt: skip


def _with_queries(text: Any) -> Any:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig

    former = Blip2QFormerConfig(vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                                intermediate_size=24, encoder_hidden_size=24, cross_attention_frequency=1)  # fmt: skip
    parts = {"vision_config": Blip2VisionConfig(**_VISION), "qformer_config": former, "text_config": text}
    described = {name: part.to_dict() for name, part in parts.items()}
    return Blip2ForConditionalGeneration(Blip2Config(**described, num_query_tokens=6, image_token_index=3))


def _git(tokenizer: Any) -> Any:
    from transformers import GitConfig, GitForCausalLM

    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "vocab_size": tokenizer.get_vocab_size()}
    return GitForCausalLM(GitConfig(vision_config=dict(_VISION), **_TEXT, **special))


def _vit_gpt2(tokenizer: Any) -> Any:
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    end = tokenizer.token_to_id("<|endoftext|>")
    text = GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=48, vocab_size=tokenizer.get_vocab_size(),
                      bos_token_id=end, eos_token_id=end, is_decoder=True, add_cross_attention=True)  # fmt: skip
    joined = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**_VISION), text)
    joined.decoder_start_token_id = joined.pad_token_id = joined.eos_token_id = end
    return VisionEncoderDecoderModel(joined)
