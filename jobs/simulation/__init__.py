"""The mathematics of a simulated ads log whose true probabilities are known.

A user, an ad and a surface meet in an impression. For each task (click; conversion, given a click)

    z  = b_domain + b_ad(day) + sum_{r=1..3} c_r I_r + c_g g(history, ad) + c_h h(content, user)
         + b_position,      p* = sigmoid(z)
    I1 = (w_u . u + w_a . a) / sqrt 2,   I2 = sum_j t_j u_j a_j / sqrt 6,
    I3 = sum_j t_j s_j u_j a_j / sqrt 6

u and a are the user's and the ad's 6-vectors, with mean 0 and covariance I; s is the surface's and
t the task's vector of signs; w are unit vectors. Every s has as many plus as minus signs, so over
random pairs of user and ad I1, I2 and I3 have mean 0 and variance 1, and a click's are uncorrelated
on every surface: c_r^2 is the variance of z that needs interactions of order r. Most of u is common
to an age group and a country, and most of a to a campaign. h = q_u . v_campaign / sqrt 6 with
|v| = sqrt 6, of variance 1 over users. g is what share of the user's recent organic actions, on
either platform, was about the ad's category, exponentially decayed, centred and scaled.

b_ad(day) walks at random from the ad's first day; a fifth of the ads is new every day, of campaigns
that older ads share. Which ad is shown is decided by an auction.

Paper: Chapelle, Modeling Delayed Feedback in Display Advertising, KDD 2014, for conversions that
follow a click after an exponential delay.
Differs: the delay is a mixture of two exponentials, with mean 2 days and 5 % over 7 days, where one
exponential would have 3 %; actual conversions are independent of their delay.

Every draw comes from a counter-based generator keyed by seed, purpose and day, so any day can be
drawn alone. A day needs the organic events of `HISTORY_DAYS` days before it and the conversions of
`ARRIVAL_DAYS` days before it, and nothing else.
"""

from jobs.simulation.days import Day, auction, concatenated, converted_within, days, draw_outcomes
from jobs.simulation.people import draw_ads, draw_organic, draw_people
from jobs.simulation.truth import history_shares, logit_parts
from jobs.simulation.world import (
    AGE_GROUPS,
    CLICK,
    CONVERSION,
    COUNTRIES,
    DAY_MS,
    DEVICES,
    DOMAINS,
    EVENT_TYPES,
    NUM_CANDIDATES,
    OUTCOME_TYPES,
    SURFACE_DOMAIN,
    SURFACES,
    Columns,
    World,
)

__all__ = [
    "AGE_GROUPS",
    "CLICK",
    "CONVERSION",
    "COUNTRIES",
    "DAY_MS",
    "DEVICES",
    "DOMAINS",
    "EVENT_TYPES",
    "NUM_CANDIDATES",
    "OUTCOME_TYPES",
    "SURFACES",
    "SURFACE_DOMAIN",
    "Columns",
    "Day",
    "World",
    "auction",
    "concatenated",
    "converted_within",
    "days",
    "draw_ads",
    "draw_organic",
    "draw_outcomes",
    "draw_people",
    "history_shares",
    "logit_parts",
]
