"""What the page says, in each language that it speaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All words of the page in one language; names in braces are filled in.

    Attributes:
        code: BCP 47, of the page's `lang`.
        states: job's state -> what is told of it.
        outcomes, verdicts: of verify and detect -> headline.
        layers: name of a layer of a verdict -> (title, what it is).
        layer_states: of a layer -> word.
    """

    code: str
    title: str
    lead: str
    tab_make: str
    tab_verify: str
    tab_detect: str
    prompt: str
    prompt_hint: str
    negative: str
    negative_hint: str
    settings: str
    model: str
    as_model: str
    sampler: str
    steps: str
    guidance: str
    seed: str
    seed_hint: str
    random: str
    reuse: str
    size: str
    size_hint: str
    count: str
    start: str
    init: str
    strength: str
    strength_hint: str
    mask: str
    mask_hint: str
    loras: str
    lora: str
    lora_hint: str
    generate: str
    cancel: str
    keys: str
    progress: str
    preview: str
    states: Mapping[str, str]
    submitting: str
    finished: str
    step: str
    seconds: str
    ahead: str
    none_yet: str
    pictures: str
    picture: str
    chosen: str
    choose: str
    download: str
    request: str
    receipt: str
    receipt_open: str
    seconds_taken: str
    warnings: str
    again: str
    vary: str
    vary_from: str
    start_from: str
    drop: str
    verify: str
    verify_lead: str
    detect: str
    detect_lead: str
    outcomes: Mapping[str, str]
    verdicts: Mapping[str, str]
    layers: Mapping[str, tuple[str, str]]
    layer_states: Mapping[str, str]
    ratio: str
    failed: str
    fault: str
    bad_size: str
    bad_seed: str
    no_number: str
    no_picture: str
    choose_first: str
    nothing_runs: str
    who: str
    login: str
    login_lead: str
    key: str
    enter: str
    wrong_key: str
    logout: str


ENGLISH: Final = Texts(
    code="en",
    title="lienzo",
    lead="Pictures from words, each of which can prove where it comes from.",
    tab_make="Make",
    tab_verify="Verify",
    tab_detect="Detect",
    prompt="Prompt",
    prompt_hint="What to paint",
    negative="Negative prompt",
    negative_hint="What to steer away from",
    settings="Settings",
    model="Model",
    as_model="the model's own",
    sampler="Sampler",
    steps="Steps",
    guidance="Guidance",
    seed="Seed",
    seed_hint="random",
    random="Random",
    reuse="Reuse last",
    size="Size",
    size_hint="WIDTHxHEIGHT in pixels, multiples of 8",
    count="Pictures",
    start="Start from a picture",
    init="Picture to start from",
    strength="Strength",
    strength_hint="How much of it to change",
    mask="Mask",
    mask_hint="Draw over what is to be painted anew. Without a drawing, all of it is.",
    loras="LoRAs",
    lora="Weight of {name}",
    lora_hint="0: not used",
    generate="Generate",
    cancel="Cancel",
    keys="Ctrl+Enter generates, Escape cancels.",
    progress="Progress",
    preview="Preview",
    states=MappingProxyType({
        "queued": "Waiting",
        "running": "Painting",
        "done": "Done",
        "failed": "Failed",
        "blocked": "Refused by a safety check",
        "cancelled": "Cancelled",
        "expired": "Too late",
    }),
    submitting="Asking …",
    finished="Done: {done} of {of}.",
    step="picture {number} of {of}, step {step} of {steps}",
    seconds="about {seconds} s left",
    ahead="{ahead} ahead",
    none_yet="No pictures yet.",
    pictures="Your latest pictures",
    picture="Picture {number}, seed {seed}: {prompt}",
    chosen="The chosen picture",
    choose="Choose a picture to see how it was made.",
    download="Download the signed PNG",
    request="What was asked for",
    receipt="Receipt",
    receipt_open="Signed receipt, with the proof that it is in the log",
    seconds_taken="Made in",
    warnings="Warnings",
    again="Make again",
    vary="Vary with a new seed",
    vary_from="Vary from this picture",
    start_from="Start from it",
    drop="Picture",
    verify="Verify",
    verify_lead="Drop a PNG, JPEG or WebP: what do its marks prove? Its SHA-256 is noted; the picture itself is deleted within two hours.",
    detect="Detect",
    detect_lead="Drop a picture: do its pixels look like this service's model's? A hint, no proof. "
    "Its SHA-256 is noted; the picture itself is deleted within two hours.",
    outcomes=MappingProxyType({"proved": "Proved", "not proved": "Not proved", "tampered": "Tampered with"}),
    verdicts=MappingProxyType({"ours": "Ours", "not ours": "Not ours", "inconclusive": "Inconclusive"}),
    layers=MappingProxyType({
        "credentials": ("Content Credentials", "a signature over exactly this file"),
        "receipt": ("Receipt", "the maker's signed statement of how it was made"),
        "pixels": ("Pixels", "whether they are the recorded ones"),
        "watermark": ("Watermark", "a mark within the pixels that leads to the record"),
        "log": ("Log", "an entry that nobody can change unseen"),
        "likeness": ("Likeness", "whether it looks like the recorded picture"),
        "safety": ("Safety", "whether prompt and picture were checked"),
        "prompt": ("Prompt", "whether a revealed prompt is this picture's"),
        "regeneration": ("Made again", "whether making it again gives the same"),
    }),
    layer_states=MappingProxyType({
        "holds": "holds", "fails": "fails", "absent": "absent", "unknown": "cannot be told",
    }),
    ratio="Likelihood ratio",
    failed="It cannot be done as asked.",
    fault="Something failed that should not have. The service's own log says what.",
    bad_size="Size: got {got!r}; give WIDTHxHEIGHT, as 512x512.",
    bad_seed="Seed: got {got!r}; give a whole number, or leave it empty for a random one.",
    no_number="{name}: nothing is given. Give a number.",
    no_picture="There is no picture. Drop one first.",
    choose_first="Choose a picture first.",
    nothing_runs="Nothing is being made.",
    who="You are",
    login="Log in",
    login_lead="This service wants to know who you are. Give the API key that its operator gave you.",
    key="API key",
    enter="Log in",
    wrong_key="This key does not open anything here.",
    logout="Log out",
)  # fmt: skip

SPANISH: Final = Texts(
    code="es",
    title="lienzo",
    lead="Imágenes a partir de palabras, y cada una puede demostrar de dónde viene.",
    tab_make="Crear",
    tab_verify="Verificar",
    tab_detect="Detectar",
    prompt="Descripción",
    prompt_hint="Qué pintar",
    negative="Descripción negativa",
    negative_hint="De qué alejarse",
    settings="Ajustes",
    model="Modelo",
    as_model="el del modelo",
    sampler="Método de muestreo",
    steps="Pasos",
    guidance="Guía",
    seed="Semilla",
    seed_hint="al azar",
    random="Al azar",
    reuse="Repetir la última",
    size="Tamaño",
    size_hint="ANCHOxALTO en píxeles, múltiplos de 8",
    count="Imágenes",
    start="Partir de una imagen",
    init="Imagen de partida",
    strength="Intensidad",
    strength_hint="Cuánto cambiarla",
    mask="Máscara",
    mask_hint="Dibuje sobre lo que deba pintarse de nuevo. Sin dibujo, es toda la imagen.",
    loras="LoRA",
    lora="Peso de {name}",
    lora_hint="0: no se usa",
    generate="Generar",
    cancel="Cancelar",
    keys="Ctrl+Intro genera, Escape cancela.",
    progress="Progreso",
    preview="Vista previa",
    states=MappingProxyType({
        "queued": "En espera",
        "running": "Pintando",
        "done": "Hecho",
        "failed": "Ha fallado",
        "blocked": "Rechazado por un control de seguridad",
        "cancelled": "Cancelado",
        "expired": "Demasiado tarde",
    }),
    submitting="Pidiendo …",
    finished="Hecho: {done} de {of}.",
    step="imagen {number} de {of}, paso {step} de {steps}",
    seconds="quedan unos {seconds} s",
    ahead="{ahead} por delante",
    none_yet="Todavía no hay imágenes.",
    pictures="Sus últimas imágenes",
    picture="Imagen {number}, semilla {seed}: {prompt}",
    chosen="La imagen elegida",
    choose="Elija una imagen para ver cómo se hizo.",
    download="Descargar el PNG firmado",
    request="Lo que se pidió",
    receipt="Recibo",
    receipt_open="Recibo firmado, con la prueba de que está en el registro",
    seconds_taken="Hecha en",
    warnings="Avisos",
    again="Hacer otra vez",
    vary="Variar con otra semilla",
    vary_from="Variar a partir de ella",
    start_from="Partir de ella",
    drop="Imagen",
    verify="Verificar",
    verify_lead="Suelte un PNG, JPEG o WebP: ¿qué demuestran sus marcas? Se anota su SHA-256; la imagen misma se borra en menos de dos horas.",
    detect="Detectar",
    detect_lead="Suelte una imagen: ¿se parecen sus píxeles a los del modelo de este servicio? Es un indicio, no una prueba. "
    "Se anota su SHA-256; la imagen misma se borra en menos de dos horas.",
    outcomes=MappingProxyType({"proved": "Probado", "not proved": "No probado", "tampered": "Alterado"}),
    verdicts=MappingProxyType({"ours": "Es nuestra", "not ours": "No es nuestra", "inconclusive": "No se puede decidir"}),
    layers=MappingProxyType({
        "credentials": ("Credenciales de contenido", "una firma sobre exactamente este archivo"),
        "receipt": ("Recibo", "la declaración firmada de cómo se hizo"),
        "pixels": ("Píxeles", "si son los registrados"),
        "watermark": ("Marca de agua", "una marca en los píxeles que lleva al registro"),
        "log": ("Registro", "una entrada que nadie puede cambiar sin que se vea"),
        "likeness": ("Parecido", "si se parece a la imagen registrada"),
        "safety": ("Seguridad", "si se revisaron la descripción y la imagen"),
        "prompt": ("Descripción", "si una descripción revelada es la de esta imagen"),
        "regeneration": ("Hecha otra vez", "si al hacerla de nuevo sale la misma"),
    }),
    layer_states=MappingProxyType({
        "holds": "se cumple", "fails": "falla", "absent": "ausente", "unknown": "no se puede saber",
    }),
    ratio="Razón de verosimilitud",
    failed="No se puede hacer así.",
    fault="Ha fallado algo que no debía. El registro del servicio dice qué.",
    bad_size="Tamaño: se ha dado {got!r}; escriba ANCHOxALTO, como 512x512.",
    bad_seed="Semilla: se ha dado {got!r}; escriba un número entero o déjela vacía para una al azar.",
    no_number="{name}: no se ha dado nada. Escriba un número.",
    no_picture="No hay imagen. Suelte una primero.",
    choose_first="Elija primero una imagen.",
    nothing_runs="No se está haciendo nada.",
    who="Usted es",
    login="Entrar",
    login_lead="Este servicio quiere saber quién es usted. Escriba la clave de API que le dio quien lo administra.",
    key="Clave de API",
    enter="Entrar",
    wrong_key="Esta clave no abre nada aquí.",
    logout="Salir",
)  # fmt: skip

LANGUAGES: Final[Mapping[str, Texts]] = MappingProxyType({one.code: one for one in (ENGLISH, SPANISH)})


def language(accepted: str | None) -> str:
    """Which of `LANGUAGES` an Accept-Language header (RFC 9110, section 12.5.4) likes best; English where it says nothing."""
    liked: list[tuple[float, str]] = []
    for part in (accepted or "").split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        code = tag.split("-")[0].lower()
        if code in LANGUAGES and quality > 0:
            liked.append((quality, code))
    return max(liked, key=lambda one: one[0], default=(0.0, ENGLISH.code))[1]
