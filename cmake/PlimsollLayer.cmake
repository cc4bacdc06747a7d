# plimsoll_layer(NAME DEPENDS target...) turns every source file of the current folder and its rooms into
# the static library plimsoll_NAME, and every *_test.cc beside them into the test program NAME_test.

add_library(plimsoll_settings INTERFACE)
target_include_directories(plimsoll_settings INTERFACE ${PROJECT_SOURCE_DIR}/include
                                                       ${PROJECT_SOURCE_DIR}/src)
# Designated initialisers leave the rest at its defaults on purpose.
target_compile_options(plimsoll_settings INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wno-missing-field-initializers>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 sees overlaps in std::string's operator+ that are not there (GCC bug 105651).
  target_compile_options(plimsoll_settings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(PLIMSOLL_WERROR)
  target_compile_options(plimsoll_settings INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:-Werror>)
endif()
if(PLIMSOLL_SANITIZE)
  target_compile_options(plimsoll_settings INTERFACE -fsanitize=${PLIMSOLL_SANITIZE}
                                                     -fno-omit-frame-pointer
                                                     -fno-sanitize-recover=all)
  target_link_options(plimsoll_settings INTERFACE -fsanitize=${PLIMSOLL_SANITIZE})
endif()

# Compiles these headers, large ones of other projects, once for the target. Every file still includes what
# it uses: CMAKE_DISABLE_PRECOMPILE_HEADERS, which the sanitizers' presets set, builds without.
function(plimsoll_precompile target)
  target_precompile_headers(${target} PRIVATE ${ARGN})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # lets ccache look inside
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endfunction()

# The tests of two builds may run at once: each build has a folder of its own for what they write.
function(plimsoll_discover_tests program)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/test-files)
  gtest_discover_tests(${program} DISCOVERY_TIMEOUT 60 PROPERTIES
                       TIMEOUT 600 ENVIRONMENT TEST_TMPDIR=${PROJECT_BINARY_DIR}/test-files)
endfunction()

function(plimsoll_layer name)
  cmake_parse_arguments(LAYER "" "" "DEPENDS;TEST_DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(NOT sources)  # until its first file arrives
    add_library(plimsoll_${name} INTERFACE)
    return()
  endif()
  add_library(plimsoll_${name} STATIC ${sources})
  target_link_libraries(plimsoll_${name} PUBLIC plimsoll_settings ${LAYER_DEPENDS})
  if(PLIMSOLL_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE plimsoll_${name} ${LAYER_TEST_DEPENDS} rapidcheck
                                               GTest::gtest_main)
    target_compile_definitions(${name}_test PRIVATE PLIMSOLL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    plimsoll_discover_tests(${name}_test)
  endif()
endfunction()
