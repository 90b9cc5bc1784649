"""T2I-CompBench's BLIP-VQA (Huang et al. 2023): are a prompt's things in the image, each as it is said to be?

Every noun phrase of the prompt is a question ("a green bench?") for BLIP; P(yes) of yes and no. An image's score is the
product over the first eight phrases, the suite's the mean over images.

Differs from the published script in: BLIP is transformers' port of the same weights; phrases are spaCy's there and
here. """

from dataclasses import dataclass
from functools import cached_property

import torch

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError, check_package
from visalign.evaluation.suites.base import SuiteFigure, SuiteScorer, check_model_is_there, mean_figure
from visalign.evaluation.suites.detection import not_loaded
from visalign.media.samples import Sample
from visalign.storage.pretrained import load_whole

MOST_PHRASES = 8


class BlipAnswers:
    """P(yes) / (P(yes) + P(no)) as the answer's first word, by a BLIP that answers questions."""

    def __init__(self, source: str, device: str):
        from transformers import AutoProcessor, BlipForQuestionAnswering

        where = "bench t2i-compbench: vqa"
        try:
            self.processor = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise not_loaded(source, where, error) from None
        self.model = load_whole(BlipForQuestionAnswering, source, where).to(device)
        self.device = device
        self.words = [self.processor.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]

    @torch.no_grad()
    def yes(self, image, question: str) -> float:
        given = self.processor(images=image, text=question, return_tensors="pt").to(self.device)
        seen = self.model.vision_model(pixel_values=given["pixel_values"])[0]
        asked = self.model.text_encoder(input_ids=given["input_ids"], attention_mask=given["attention_mask"],
                                        encoder_hidden_states=seen)[0]
        start = torch.full((1, 1), self.model.decoder_start_token_id, device=self.device)
        logits = self.model.text_decoder(input_ids=start, encoder_hidden_states=asked,
                                         encoder_attention_mask=given["attention_mask"]).logits[0, 0]
        return float(logits[self.words].float().softmax(0)[0])


@dataclass
class CompBench(SuiteScorer):
    """vqa: a BLIP that answers questions. phrases: the spaCy model that finds noun phrases."""

    vqa: str = "Salesforce/blip-vqa-capfilt-large"
    phrases: str = "en_core_web_sm"

    def check(self, items: list[SuitePrompt]) -> None:
        check_package("bench t2i-compbench: phrases", "spacy", "spacy")
        self.language  # noqa: B018  loading the small model is the check
        check_model_is_there(self.vqa, "bench t2i-compbench: vqa")

    @cached_property
    def language(self):
        import spacy

        try:
            return spacy.load(self.phrases)
        except OSError:
            raise UserError(f"bench t2i-compbench: phrases: spaCy's model {self.phrases} is not here; fetch it with "
                            f"`python -m spacy download {self.phrases}`") from None

    @cached_property
    def blip(self) -> BlipAnswers:
        return BlipAnswers(self.vqa, self.device)

    def score(self, item: SuitePrompt, sample: Sample) -> float:
        """The product of P(yes) over the prompt's first noun phrases, in [0, 1]; 1 of a prompt without any."""
        product = 1.0
        for phrase in list(self.language(item.prompt).noun_chunks)[:MOST_PHRASES]:
            product *= self.blip.yes(sample.image, f"{phrase.text}?")
        return product

    def figures(self, items: list[SuitePrompt], scored: list[list[float]]) -> list[SuiteFigure]:
        return [mean_figure("BLIP-VQA", scored, True)]
