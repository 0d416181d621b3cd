"""Geospatial indexes."""

from tests.differential.case import NOWHERE, A, E, case

PLACES = (
    "GEOADD",
    A,
    13.361389,
    38.115556,
    "Palermo",
    15.087269,
    37.502669,
    "Catania",
    2.2,
    41.4,
    "Barcelona",
)
NEAR = {"longitude": 15, "latitude": 37, "radius": 200, "unit": "km"}

CASES = [
    case("geoadd", A, [13.361389, 38.115556, "Palermo", 15.087269, 37.502669, b"Catania"]),
    case("geoadd", A, [13.0, 38.0, "Palermo", 1, 1, "New"], ch=True).given(PLACES),
    case("geoadd", A, [13.0, 38.0, "Palermo"], nx=True).given(PLACES),
    case("geoadd", A, [13.0, 38.0, "Palermo"], xx=True).given(PLACES),
    case("geoadd", A, [1, 2], nx=True).fails(),
    case("geoadd", A, [1, 2, "x"], nx=True, xx=True).fails(),
    case("geoadd", A, [1000, 2, "x"]).fails(),
    case("geodist", A, "Palermo", "Catania").given(PLACES),
    case("geodist", A, "Palermo", "Catania", unit="km").given(PLACES),
    case("geodist", A, "Palermo", "Atlantis").given(PLACES),
    case("geodist", A, "Palermo", "Catania", unit="ells").fails(),
    case("geohash", A, "Palermo", "Atlantis").given(PLACES),
    case("geohash", NOWHERE, "Palermo"),
    case("geopos", A, "Palermo", "Atlantis").given(PLACES),
    case("geopos", NOWHERE, "Palermo"),
    case("georadius", A, 15, 37, 200, unit="km").given(PLACES),
    case(
        "georadius", A, 15, 37, 2000, unit="km", withdist=True, withcoord=True, withhash=True, sort="ASC"
    ).given(PLACES),
    case("georadius", A, 15, 37, 2000, unit="km", withdist=True, count=2, sort="DESC").given(PLACES),
    case("georadius", A, 15, 37, 2000, unit="km", count=1, any=True).given(PLACES),
    case("georadius", A, 15, 37, 200, unit="km", store=E).given(PLACES),
    case("georadius", A, 15, 37, 200, unit="km", store_dist=E).given(PLACES),
    case("georadius", A, 15, 37, 200, store=E, store_dist=E).fails(),
    case("georadius", A, 15, 37, 200, sort="SIDEWAYS").fails(),
    case("georadius", A, 15, 37, 200, any=True).fails(),
    case("georadiusbymember", A, "Palermo", 200, unit="km").given(PLACES),
    case("georadiusbymember", A, "Palermo", 200, unit="km", withcoord=True, withdist=True).given(PLACES),
    case("georadiusbymember", A, "Palermo", 200, unit="km", store=E).given(PLACES),
    case("georadiusbymember", A, "Atlantis", 200).given(PLACES).fails(),
    case("geosearch", A, **NEAR).given(PLACES),
    case("geosearch", A, **NEAR, sort="DESC", withdist=True).given(PLACES),
    case("geosearch", A, **NEAR, withcoord=True, withhash=True).given(PLACES),
    case("geosearch", A, member="Palermo", width=4000, height=400, unit="km", count=1, any=True).given(
        PLACES
    ),
    case("geosearch", NOWHERE, **NEAR),
    case("geosearch", A, longitude=15, latitude=37).fails(),
    case("geosearch", A, member="Palermo", **NEAR).fails(),
    case("geosearchstore", E, A, **NEAR).given(PLACES),
    case("geosearchstore", E, A, member="Palermo", radius=200, unit="km", storedist=True).given(PLACES),
    case("geosearchstore", E, NOWHERE, **NEAR),
]
