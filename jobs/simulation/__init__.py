"""The mathematics of a simulated ads log whose true probabilities are known.

A user, an ad, a surface and a part of the day meet in an impression. For each task (click;
conversion, given a click)

    z  = b_domain + b_ad(day) + sum_{r=1..4} c_r I_r + c_g g + c_j j + c_h h + b_position + kappa e
    p* = sigmoid(z)

    I1 = (w_u . u + w_a . a) / sqrt 2         I3 = sum_k t_k s_k u_k a_k / sqrt 6
    I2 = sum_k t_k u_k a_k / sqrt 6           I4 = sum_k t_k s_k d_k u_{k+1} a_k / sqrt 6
    h  = q_u . v / sqrt 6
    g  = (A_c - mean_c A_c) / scale           A_c = 1/M sum_m 1/N_m sum_{n <= N_m} w_n [c_n = c]
    j  = J_c / scale                          J_c = [view, search, like] - [like, search, view]

Each domain has coefficients of its own; up to three domains have base rates of 0.16, 0.07 and 0.03.

Interactions. u and a are the user's and the ad's 6-vectors, with mean 0 and covariance I; s and d
are the surface's and the part of the day's; t is the task's vector of signs; w are unit vectors.
In every coordinate s and d have mean 0 and mean square 1 over a domain's traffic, so that over
random users, ads and moments the I_r have mean 0 and variance 1 and are uncorrelated: c_r^2 is the
variance of z that needs interactions of order r, and `Task.order_shares` tells the shares. Most of
u is common to an age group and a country, and most of a to a campaign.

History. n = 1, 2, .. counts a user's latest organic actions on all platforms strictly before the
impression, back to `HISTORY_DAYS` days; c_n is the action's category, w_n its type's weight, c the
ad's category and N_m = 4, 16, .., 1024. Every factor of four in n has equal mass: attention decays
with the logarithm of the distance, and 30.2 % of a full history's mass lies beyond n = 100. What
cutting histories at 20, 100 or 400 actions costs, and what forgetting the actions on other
platforms than the impression's costs, are differences of such sums. (A model's timeline also holds
impressions and their outcomes, so its latest N events are fewer than N actions.)

Journeys. J_c is told by the order of the user's latest three actions about the ad's category, +1
forwards and -1 backwards. Types are drawn independently, so the set of actions tells nothing of it.

Content. v is a creative's vector, |v| = sqrt 6, so that h has variance 1 over users. Half of v's
variance is its campaign's, and most of that its cluster's, which no column tells. A campaign books
four new creatives a week. Words of titles are drawn by their affinity to the creative's v, those of
descriptions to the campaign's; see `texts`.

Drift. b_ad(day) walks at random from the ad's first day; a fifth of the ads is new every day, of
campaigns that older ads share. On the world's change day the ads of each category gain or lose
appeal at once, and for good.

Selection. e is standard normal, told to nobody, and moves a click and its conversion alike:
conversions are seen on clicks alone, and clicks prefer a high e. kappa is `World.confounding`.
Which ad is shown is decided by an auction, which knows z but for e, with an error, and explores.

Worth. Without a component X, p_X = sigmoid(z - X); forgetting it raises NE by E[KL(p* | p_X)] over
the entropy of the mean rate. Without the confounder, p is the mean over e. See `truth`.

Paper: Chapelle, Modeling Delayed Feedback in Display Advertising, KDD 2014, for conversions that
follow a click after an exponential delay.
Differs: the delay is a mixture of two exponentials, with mean 2 days and 5 % over 7 days, where one
exponential would have 3 %; actual conversions are independent of their delay.

Every draw comes from a counter-based generator keyed by seed, purpose and day, so any day can be
drawn alone. A day needs the organic events of `HISTORY_DAYS` days before it and the conversions of
`ARRIVAL_DAYS` days before it, and nothing else.
"""

from jobs.simulation.ads import draw_ads, draw_campaigns, draw_creatives
from jobs.simulation.auctions import auction, draw_candidates
from jobs.simulation.days import (
    Day,
    concatenated,
    converted_within,
    creative_numbers,
    days,
    draw_outcomes,
    whole_day,
)
from jobs.simulation.history import attention, past_of
from jobs.simulation.people import draw_organic, draw_people
from jobs.simulation.presets import PRESETS, Preset
from jobs.simulation.tasks import CLICK, CONVERSION, ORDERS
from jobs.simulation.texts import draw_descriptions, draw_titles
from jobs.simulation.truth import COMPONENTS, candidate_logits, logit_parts, total
from jobs.simulation.world import (
    DAY_MS,
    DOMAINS,
    EVENT_TYPES,
    NUM_CANDIDATES,
    OUTCOME_TYPES,
    SURFACE_DOMAIN,
    SURFACES,
    World,
)

__all__ = [
    "CLICK",
    "COMPONENTS",
    "CONVERSION",
    "DAY_MS",
    "DOMAINS",
    "EVENT_TYPES",
    "NUM_CANDIDATES",
    "ORDERS",
    "OUTCOME_TYPES",
    "PRESETS",
    "SURFACES",
    "SURFACE_DOMAIN",
    "Day",
    "Preset",
    "World",
    "attention",
    "auction",
    "candidate_logits",
    "concatenated",
    "converted_within",
    "creative_numbers",
    "days",
    "draw_ads",
    "draw_campaigns",
    "draw_candidates",
    "draw_creatives",
    "draw_descriptions",
    "draw_organic",
    "draw_outcomes",
    "draw_people",
    "draw_titles",
    "logit_parts",
    "past_of",
    "total",
    "whole_day",
]
