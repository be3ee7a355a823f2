"""A few fixed questions after every epoch, so that one can read how the model changes."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from the_block_llm.models.factory import TrainableModel
from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunFolder
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import RandomStates, is_out_of_memory

_log = logging.getLogger(__name__)
_CACHE_GIB: Final = 0.5


class EpochProbe(TrainerCallback):
    """Asks before training, after each epoch, and after the last step."""

    def __init__(
        self,
        trainable: TrainableModel,
        questions: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        run: RunFolder,
        epoch_ends: Sequence[int],
        max_new_tokens: int,
    ) -> None:
        """Args: ``epoch_ends`` are the optimizer steps after which an epoch is complete."""
        self._trainable = trainable
        self._prompts = [_prompt(tokenizer, question) for question in questions]
        self._tokenizer = tokenizer
        self._run = run
        self._epoch_ends = list(epoch_ends)
        self._decoding = SamplingParams(max_new_tokens=max_new_tokens)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Ask the untrained model."""
        del args, control, kwargs
        if state.global_step == 0:
            self._ask(model, 0)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Ask where an epoch, or the run, is complete."""
        del args, control, kwargs
        if state.global_step in self._epoch_ends or state.global_step >= state.max_steps:
            self._ask(model, state.global_step)

    def _ask(self, model: Any, step: int) -> None:
        if not self._prompts or not distributed.is_first():
            return
        answers: list[Completion | None] = [None] * len(self._prompts)
        was_training, states = model.training, RandomStates.now()
        model.eval()
        try:
            if self._trainable.is_layerwise:
                answers[:] = self._trainable.generate_greedy(
                    self._tokenizer, self._prompts, self._decoding.max_new_tokens
                )
            else:
                generate(
                    model,
                    self._tokenizer,
                    self._prompts,
                    self._decoding,
                    batch_rows=len(self._prompts),
                    cache_gib=_CACHE_GIB,
                    on_completion=answers.__setitem__,
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Questions are asked for information; training must not end of them.
            _log.warning("There was no memory to ask the probe questions at step %d", step)
        model.train(was_training)
        states.restore()
        entry = {
            "step": step,
            "epoch": sum(end <= step for end in self._epoch_ends),
            "answers": [
                None if a is None else {"text": a.text, "finish": a.finish} for a in answers
            ],
        }
        kept = [old for old in self._run.state.probe_answers if old["step"] < step]
        self._run.state.probe_answers = [*kept, entry]
        self._run.save_state()


def _prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    if tokenizer.chat_template is None:
        return list(tokenizer(question)["input_ids"])
    messages = [{"role": "user", "content": question}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    return list(encoded["input_ids"])
