"""Trainer callback: generates answers to fixed prompts after every epoch."""

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
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import RngState, is_out_of_memory

_log = logging.getLogger(__name__)
_CACHE_GIB: Final = 0.5


class SampleCallback(TrainerCallback):
    """Generates samples before training, after each epoch, and after the last step."""

    def __init__(
        self,
        trainable: TrainableModel,
        questions: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        run: RunFolder,
        epoch_end_steps: Sequence[int],
        max_new_tokens: int,
    ) -> None:
        """Create the callback.

        Args:
            trainable: The model in training.
            questions: The prompts.
            tokenizer: Its tokenizer, whose chat template is applied if there is one.
            run: The run folder, whose state stores the answers.
            epoch_end_steps: The last optimizer step of each epoch.
            max_new_tokens: Maximum length of an answer.
        """
        self._trainable = trainable
        self._prompts = [_prompt(tokenizer, question) for question in questions]
        self._tokenizer = tokenizer
        self._run = run
        self._epoch_end_steps = list(epoch_end_steps)
        self._sampling = SamplingParams(max_new_tokens=max_new_tokens)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Generate samples of the untrained model."""
        del args, control, kwargs
        if state.global_step == 0:
            self._generate_samples(model, 0)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Generate samples at the end of an epoch or of the run."""
        del args, control, kwargs
        if state.global_step in self._epoch_end_steps or state.global_step >= state.max_steps:
            self._generate_samples(model, state.global_step)

    def _generate_samples(self, model: Any, step: int) -> None:
        if not self._prompts or not distributed.is_main_process():
            return
        answers: list[Completion | None] = [None] * len(self._prompts)
        was_training, rng_state = model.training, RngState.capture()
        model.eval()
        try:
            if self._trainable.is_layerwise:
                answers[:] = self._trainable.generate_greedy(
                    self._tokenizer, self._prompts, self._sampling.max_new_tokens
                )
            else:
                generate(
                    model,
                    self._tokenizer,
                    self._prompts,
                    self._sampling,
                    batch_rows=len(self._prompts),
                    cache_gib=_CACHE_GIB,
                    on_completion=answers.__setitem__,
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Samples are informational; they must not abort the run.
            _log.warning("Out of memory: no answers to the probe questions at step %d", step)
        model.train(was_training)
        rng_state.restore()
        entry = {
            "step": step,
            "epoch": sum(end <= step for end in self._epoch_end_steps),
            "answers": [
                None if a is None else {"text": a.text, "finish": a.finish} for a in answers
            ],
        }
        # After resuming, entries of later steps are replaced.
        earlier = [old for old in self._run.state.probe_answers if old["step"] < step]
        self._run.state.probe_answers = [*earlier, entry]
        self._run.save_state()


def _prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    if tokenizer.chat_template is None:
        return list(tokenizer(question)["input_ids"])
    messages = [{"role": "user", "content": question}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    return list(encoded["input_ids"])
