"""Asking a transformers vision-language model on this machine."""

from collections.abc import Callable

import torch

from visalign.errors import UserError
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.forms import Form, form_shown
from visalign.rewards.vlm.questions import Question, Reply
from visalign.storage.pretrained import check_processor, load_whole


class LocalAsker:
    """Greedy answers, one question at a time; the choices' probabilities come from the logits themselves."""

    def __init__(self, source: str, device: str, max_tokens: int):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        check_processor(source, "reward")
        try:
            self.processor = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"reward: transformers could not load {source} ({reason})") from None
        self.model = load_whole(AutoModelForImageTextToText, source, "reward", dtype="auto").to(device)
        self.device, self.max_tokens = device, max_tokens
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.processor.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def to(self, device: str) -> None:
        self.device = device
        self.model.to(device)

    @torch.no_grad()
    def ask(self, questions: list[Question], on_answer: Callable[[int, Reply], None]) -> list[Reply | Failure]:
        outcomes: list[Reply | Failure] = []
        for i, question in enumerate(questions):
            outcome = self._one(question)
            if isinstance(outcome, Reply):
                on_answer(i, outcome)
            outcomes.append(outcome)
        return outcomes

    def inputs_of(self, question: Question):
        """What the model is given: a batch of one, as tensors by name."""
        content = [*({"type": "image"} for _ in question.images), {"type": "text", "text": question.asked(False)}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                                  add_generation_prompt=True)
        return self.processor(text=[text], images=list(question.images) or None, return_tensors="pt")

    def _one(self, question: Question) -> Reply | Failure:
        inputs = self.inputs_of(question).to(self.device)
        made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False, output_logits=True,
                                   return_dict_in_generate=True)
        tokens = made.sequences[0, inputs["input_ids"].shape[1]:].tolist()
        said = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        if len(tokens) >= self.max_tokens and tokens[-1] not in self.ends:
            return Failure(f"the answer was cut off at max_tokens ({self.max_tokens}) before it ended; raise "
                           f"max_tokens: {form_shown(said)}")
        return Reply(said, self._chances(question.form, said, tokens, made.logits))

    def _chances(self, form: Form | None, said: str, tokens: list[int], logits) -> dict[str, float] | None:
        """Probability of each of the form's choices at the token that is the answer, where one is."""
        decode = self.processor.tokenizer.decode
        place = form.token(said, [decode([token]) for token in tokens]) if form else None
        if place is None:
            return None
        chances = logits[place][0].float().softmax(-1)
        encode = self.processor.tokenizer.encode
        ids = {str(choice): {each[0] for text in (f"{choice}", f" {choice}")
                             if len(each := encode(text, add_special_tokens=False)) == 1} for choice in form.choices}
        return {choice: sum(chances[i].item() for i in each) for choice, each in ids.items()}
