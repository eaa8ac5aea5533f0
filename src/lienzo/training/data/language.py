"""What captions are about, told by their words alone: the language, the subjects, people. All of it is an estimate."""

from typing import Literal

from lienzo.training.data.captions import vocabulary, words

Language = Literal["English", "Spanish", "other", "undecided"]

ENGLISH = vocabulary(
    """the of and in on with for from by at to is are was were an this that these those it its his her their there he she
    they which who above below behind under over between beside near next inside white black red blue green yellow grey
    left right one two three four five six"""
)
SPANISH = vocabulary(
    """el la los las un una unos unas de del y en con por para al desde es son era eran fue este esta estos estas ese esa
    su sus se que quien donde sobre bajo entre junto cerca dentro encima debajo detrás blanco blanca negro negra rojo roja
    azul verde amarillo amarilla gris izquierda derecha uno dos tres cuatro cinco seis"""
)
STOPWORDS = vocabulary(
    """a i o e u no the of and in on with for from by at to is are was were be been an this that these those it its as or
    his her their there he she they which who el la los las un una unos unas de del y en con por para al desde es son era
    eran fue este esta estos estas ese esa su sus se que quien donde lo le les"""
)
PEOPLE = vocabulary(
    """person persons people human humans man men woman women boy boys girl girls child children kid kids baby babies
    toddler teenager teenagers adult adults lady gentleman guy bride groom couple family mother father mom dad son daughter
    brother sister grandmother grandfather crowd face faces portrait portraits selfie head hair beard body skin nude naked
    actor actress singer celebrity president king queen politician athlete player soldier police doctor nurse teacher
    student worker
    persona personas gente humano humana humanos humanas hombre hombres mujer mujeres niño niños niña niñas chico chicos
    chica chicas bebé bebe bebés joven jóvenes adulto adulta adultos señor señora novio novia pareja familia madre padre
    hijo hija hermano hermana abuelo abuela multitud cara caras rostro rostros retrato retratos autorretrato cabeza pelo
    barba cuerpo piel desnudo desnuda actriz cantante modelo famoso famosa presidente presidenta rey reina político política
    atleta jugador jugadora soldado policía médico médica enfermero enfermera maestro maestra profesor profesora estudiante
    trabajador trabajadora"""
)
"""Words for people, in English and Spanish; names are not known to it."""


def language(caption: str) -> Language:
    """By counting small words of either language; a caption without any is "undecided", other scripts are "other"."""
    letters = [c for c in caption if c.isalpha()]
    if letters and sum(ord(c) < 0x250 for c in letters) < len(letters) / 2:
        return "other"
    found = words(caption)
    english, spanish = (sum(word in some for word in found) for some in (ENGLISH, SPANISH))
    spanish += sum(c in "ñ¿¡" for c in caption.lower())
    if english == spanish:
        return "undecided" if len(found) < 5 or english else "other"
    return "English" if english > spanish else "Spanish"


def terms(caption: str) -> set[str]:
    """Its words that say something."""
    return {word for word in words(caption) if word not in STOPWORDS and len(word) > 1}
