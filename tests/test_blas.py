import threadpoolctl

from vggish_keras._blas import single_threaded_blas


def blas_threads():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def test_products_use_one_thread_inside_the_blocks_only():
    with threadpoolctl.threadpool_limits(2, "blas"):
        with single_threaded_blas():
            with single_threaded_blas():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}
