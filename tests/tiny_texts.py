"""Texts of tokens with a class each, and a transformer that reads them; commands name them."""

import torch
from torch.nn.utils.rnn import pad_sequence

from bayesprior.data import DataBundle

HEAD = "base_model.model.classifier.modules_to_save.default"


def padded(rows):
    """Make a batch of rows of different lengths."""
    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def rows(num, seed):
    """Sentences of 3 to 9 words, whose first word tells the class."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i in range(num):
        length = int(torch.randint(3, 10, (), generator=generator))
        words = torch.randint(4, 40, (length,), generator=generator)
        words[0] = 2 + i % 2
        out.append({"input_ids": words, "labels": i % 2})
    return out


def reviews(seed=0, num_train=48):
    splits = rows(num_train, seed), rows(30, seed + 1)
    return DataBundle("reviews", *splits, class_names=("bad", "good"), collate_fn=padded)


def transformer(num_classes=2, base_seed=0):
    """A BERT of two tiny layers; LoRA and the classifier are trained, the rest is frozen."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, BertConfig

    torch.manual_seed(base_seed)  # the frozen weights, which no file of a run holds
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=num_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    network = AutoModelForSequenceClassification.from_config(config)
    return get_peft_model(
        network,
        LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"]),
    )
