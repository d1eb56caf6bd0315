"""Who shares the engine with whom."""

import asyncio

from serve.company import Company


def test_who_wants_to_be_alone_is_and_goes_before_newcomers() -> None:
    order: list[str] = []

    async def visit(company: Company, name: str, *, alone: bool = False) -> None:
        async with company.alone() if alone else company.together():
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    async def scene() -> None:
        company = Company()
        guests = [visit(company, "a"), visit(company, "b"), visit(company, "c", alone=True), visit(company, "d")]
        await asyncio.gather(*guests)

    asyncio.run(scene())
    assert sorted(order[:2]) == ["a in", "b in"]
    assert order[4:] == ["c in", "c out", "d in", "d out"]


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    async def scene() -> None:
        company = Company()
        async with company.together():
            lonely = asyncio.create_task(company.alone().__aenter__())
            await asyncio.sleep(0)
            newcomer = asyncio.create_task(company.together().__aenter__())
            await asyncio.sleep(0.01)
            assert not newcomer.done()
            lonely.cancel()
            await asyncio.wait_for(newcomer, 1)

    asyncio.run(scene())
