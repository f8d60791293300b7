"""A chat service on runs that are drawn instead of trained, and its routes in an app."""

from __future__ import annotations

from contextlib import contextmanager

from mlx_lora.backends.answering import Sampling
from mlx_lora.serving.answering import Options
from mlx_lora.serving.chat import ChatService
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


def greedy(max_tokens=12, **options) -> Options:
    return Options(Sampling(max_tokens), **options)


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def text_of(answering) -> str:
    return "".join(piece.text for piece in answering)


@contextmanager
def chat_service(directory, models, start=True, backend="mlx", **settings):
    state = State(directory)
    chat = ChatService(ServerSettings(directory, models, backend=backend, **settings), state)
    if start:
        chat.start()
    yield chat
    chat.stop()
    state.close()


@contextmanager
def serving(chat):
    """The routes of the chat in a server in this process; its address."""
    import inspect
    import threading

    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route as PathRoute

    from mlx_lora.serving import chat_routes, completion_routes, models_routes, predict_routes
    from mlx_lora.serving.api import ApiError, Call, Services

    services = Services(chat.settings, None, None, chat)

    def endpoint(route):
        async def answer(request):
            call = Call(services, request, dict(request.path_params))
            if route.body:
                call.body = route.body.model_validate_json(await request.body(), strict=True)
            try:
                result = route.handler(call)
                result = await result if inspect.isawaitable(result) else result
            except ApiError as error:
                return JSONResponse({"error": {"message": str(error), "code": error.code}}, error.status)
            return result if isinstance(result, Response) else Response(result.model_dump_json(by_alias=True))

        return answer

    routes = [*chat_routes.ROUTES, *completion_routes.ROUTES, *models_routes.ROUTES, *predict_routes.ROUTES]
    app = Starlette(routes=[PathRoute(route.path, endpoint(route), methods=[route.method]) for route in routes])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
