"""The dashboard as `streamlit run app.py` starts it: the pages, and in front of them the guard."""

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from pages.server import access, routes, start
from pages.server.guard import Guard

door = access.from_command_line()
app = st.App(
    Path(__file__).with_name("home.py"),
    routes=routes.all_routes(),
    middleware=[Middleware(Guard, door)],
    lifespan=start.announcing(door),
)
