"""What is on the page, and which button does what."""

from typing import Any, Final

import gradio as gr

from lienzo.diffusion.samplers import SAMPLERS
from lienzo.pipeline.request import Request
from lienzo.server.desk import Desk
from lienzo.server.page.actions import Actions, Form, Told
from lienzo.server.page.controls import Drawing, Upload
from lienzo.server.page.texts import Texts

SIZES: Final = ((256, 256), (512, 512), (512, 768), (768, 512), (768, 768), (1024, 1024))
"""Offered where they are allowed; others can be typed."""
MOST: Final = 4
"""Pictures that are asked for at once."""
INK: Final = "#d6336c"
"""Of the mask; seen on light pictures and on dark ones."""
SYSTEM_FONTS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
FIXED_FONTS: Final = ("ui-monospace", "Menlo", "Consolas", "monospace")
PICK: Final = """element.addEventListener('click', event => {
  const button = event.target.closest('[data-id]');
  if (button) trigger('click', {id: button.dataset.id});
});"""
"""Which picture of the gallery was chosen."""
SWEEP: Final = (600, 3600)
"""Seconds: how often files that browsers sent are looked at, and how old they get."""


def theme() -> gr.themes.Base:
    """Without fonts from elsewhere; light or dark as the browser's system is."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.slate, radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm, font=list(SYSTEM_FONTS), font_mono=list(FIXED_FONTS),
    )  # fmt: skip
    # Gradio's own greys and its white on teal have too little contrast to be read by everybody (WCAG 2.2, 1.4.3: 4.5 to 1)
    return base.set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700", block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700", block_label_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_hover_dark="*primary_800",
    )  # fmt: skip


def build(desk: Desk, texts: Texts) -> gr.Blocks:
    """The page in one language."""
    actions = Actions(desk, texts)
    page: gr.Blocks
    with gr.Blocks(title=texts.title, analytics_enabled=False, delete_cache=SWEEP, fill_width=True) as page:
        gr.HTML(_head(desk, texts))
        with gr.Tabs():
            with gr.Tab(texts.tab_make, id="make"):
                _make(desk, texts, actions, page)
            for name, title, lead, act in (
                ("verify", texts.tab_verify, texts.verify_lead, actions.verify),
                ("detect", texts.tab_detect, texts.detect_lead, actions.detect),
            ):
                with gr.Tab(title, id=name):
                    gr.Markdown(lead)
                    with gr.Row():
                        dropped = Upload(
                            label=texts.drop, sources=["upload"], elem_id=f"{name}-picture", height=320, buttons=[]
                        )
                        with gr.Column(scale=2):
                            told = gr.HTML(elem_id=f"{name}-told")
                    dropped.change(act, dropped, told, **_quiet)
    page.queue(api_open=False, default_concurrency_limit=None, max_size=desk.service.max_queued)
    return page


_quiet: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def _head(desk: Desk, texts: Texts) -> str:
    leave = f'<form method="post" action="/logout"><button>{texts.logout}</button></form>' if desk.service.auth else ""
    return f'<header class="lz-head"><h1>{texts.title}</h1><p>{texts.lead}</p>{leave}</header>'


def _make(desk: Desk, texts: Texts, actions: Actions, page: gr.Blocks) -> None:
    service = desk.service
    default = {name: field.default for name, field in Request.model_fields.items()}
    running, chosen, last = gr.State(()), gr.State(None), gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(
                label=texts.prompt, placeholder=texts.prompt_hint, lines=3, elem_id="prompt", autofocus=True
            )
            negative = gr.Textbox(label=texts.negative, placeholder=texts.negative_hint, lines=1, elem_id="negative")
            with gr.Row():
                generate = gr.Button(texts.generate, variant="primary", elem_id="generate")
                cancel = gr.Button(texts.cancel, variant="stop", elem_id="cancel", interactive=False)
            gr.HTML(f'<p class="lz-note">{texts.keys}</p>')
            with gr.Accordion(texts.settings, elem_id="settings"):
                with gr.Row():
                    model = gr.Dropdown(list(service.sources), label=texts.model, elem_id="model", interactive=True)
                    sampler = gr.Dropdown([texts.as_model, *SAMPLERS], label=texts.sampler, elem_id="sampler")
                with gr.Row():
                    steps = gr.Slider(
                        1, service.max_steps, min(default["steps"], service.max_steps), step=1, label=texts.steps, elem_id="steps"
                    )  # fmt: skip
                    guidance = gr.Slider(
                        1, 20, default["guidance_scale"], step=0.5, label=texts.guidance, elem_id="guidance"
                    )  # fmt: skip
                with gr.Row():
                    sizes = [f"{w}x{h}" for w, h in SIZES if w * h <= service.max_pixels]
                    size = gr.Dropdown(
                        [texts.as_model, *sizes], label=texts.size, info=texts.size_hint, allow_custom_value=True, elem_id="size"
                    )  # fmt: skip
                    count = gr.Slider(1, MOST, 1, step=1, label=texts.count, elem_id="count")
                with gr.Row(elem_id="seeds"):
                    seed = gr.Textbox(
                        label=texts.seed, placeholder=texts.seed_hint, max_lines=1, elem_id="seed", scale=2
                    )
                    random = gr.Button(texts.random, size="sm", elem_id="random", min_width=80)
                    reuse = gr.Button(texts.reuse, size="sm", elem_id="reuse", min_width=80)
            with gr.Accordion(texts.start, open=False, elem_id="start"):
                init = Upload(label=texts.init, sources=["upload", "clipboard"], elem_id="init", height=220, buttons=[])
                strength = gr.Slider(
                    0.05, 1, 0.8, step=0.05, label=texts.strength, info=texts.strength_hint, elem_id="strength"
                )
                drawing = Drawing(
                    label=texts.mask, sources=(), transforms=(), layers=False, visible=False, elem_id="mask", buttons=[],
                    brush=gr.Brush(colors=[INK], default_color=INK, color_mode="fixed"), placeholder=texts.mask_hint,
                )  # fmt: skip
                gr.HTML(f'<p class="lz-note">{texts.mask_hint}</p>')
            weights = []
            if service.lora_sources:
                with gr.Accordion(texts.loras, open=False, elem_id="loras"):
                    weights = [
                        gr.Slider(-2, 2, 0, step=0.05, label=texts.lora.format(name=name), info=texts.lora_hint)
                        for name in service.lora_sources
                    ]
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="status")
            progress = gr.HTML(elem_id="progress")
            details = gr.HTML(elem_id="details")
            with gr.Row(elem_id="acts"):
                again = gr.Button(texts.again, size="sm", elem_id="again")
                vary = gr.Button(texts.vary, size="sm", elem_id="vary")
                vary_from = gr.Button(texts.vary_from, size="sm", elem_id="vary-from")
                start_from = gr.Button(texts.start_from, size="sm", elem_id="start-from")
            gr.HTML(f"<h2>{texts.pictures}</h2>")
            gallery = gr.HTML(elem_id="gallery", js_on_load=PICK)

    told = list(Told(status, progress, gallery, details, running, chosen, last, cancel))
    # the controls here, in the order of their values there
    controls: dict[str, gr.components.Component] = {
        "prompt": prompt, "negative": negative, "model": model, "sampler": sampler, "steps": steps, "guidance": guidance, "seed": seed,
        "size": size, "number": count, "init": init, "strength": strength, "drawing": drawing,
    }  # fmt: skip
    generate.click(
        actions.generate, [*(controls[name] for name in Form._fields), *weights], told, trigger_mode="once", **_quiet
    )
    again.click(actions.again, chosen, told, trigger_mode="once", **_quiet)
    vary.click(actions.vary, chosen, told, trigger_mode="once", **_quiet)
    vary_from.click(actions.vary_from, chosen, told, trigger_mode="once", **_quiet)
    cancel.click(actions.cancel, running, status, **_quiet)
    gallery.click(actions.choose, None, told, **_quiet)
    random.click(lambda: "", None, seed, **_quiet)
    reuse.click(lambda seed: "" if seed is None else str(seed), last, seed, **_quiet)
    gr.on([init.input, init.clear], actions.started, init, [drawing, status], **_quiet)
    start_from.click(actions.start_from, chosen, [init, drawing, status], **_quiet)
    page.load(actions.opened, None, told, **_quiet)
